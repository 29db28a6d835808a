%% Stop a tree of N processes on three levels: half of the leaves wait 10 s, some go on for 200 ms after they were told.
%% Parents stop their children as a supervisor does: exit(Pid, shutdown), a monitor, and then themselves.
%% The shape, the stubborn and the order to check are those of the Python program. Building the tree is not timed.
-module(b_stoptree).
-export([run/1, check/2]).

run([N]) ->
    Self = self(),
    Mids = trunc(math:sqrt(N)),
    Leaves = N - 1 - Mids,
    T = spawn(fun() -> process_flag(trap_exit, true), top(Self, Mids, Leaves) end),
    Ref = erlang:monitor(process, T),
    [receive {up, _} -> ok end || _ <- lists:seq(1, Leaves)],
    T0 = erlang:monotonic_time(microsecond),
    exit(T, shutdown),
    receive {'DOWN', Ref, process, T, _} -> ok end,
    T1 = erlang:monotonic_time(microsecond),
    {gather([]), N, io_lib:format("stop_s=~f", [(T1 - T0) / 1.0e6])}.

gather(Acc) -> receive {stopped, Name} -> gather([Name | Acc]) after 0 -> lists:reverse(Acc) end.

top(Sink, Mids, Leaves) ->
    Kids = [spawn_link(fun() -> process_flag(trap_exit, true), mid(Sink, G, Leaves * G div Mids, Leaves * (G + 1) div Mids) end)
            || G <- lists:seq(0, Mids - 1)],
    until_told(Kids),
    Sink ! {stopped, top}.

mid(Sink, G, From, To) ->
    Kids = [spawn_link(fun() -> process_flag(trap_exit, true), leaf(Sink, G, I) end) || I <- lists:seq(From, To - 1)],
    until_told(Kids),
    Sink ! {stopped, {mid, G}}.

until_told(Kids) ->
    receive {'EXIT', _, shutdown} -> ok end,
    [begin R = erlang:monitor(process, K), exit(K, shutdown), receive {'DOWN', R, process, K, _} -> ok end end
     || K <- lists:reverse(Kids)].

leaf(Sink, G, I) ->
    Sink ! {up, I},
    Wait = case I rem 2 of 1 -> 10000; 0 -> infinity end,
    receive {'EXIT', _, shutdown} -> ok after Wait -> exit(slept_out) end,
    case I rem 100 of 1 -> timer:sleep(200); _ -> ok end,
    Sink ! {stopped, {leaf, G, I}}.

check([N], Stops) ->
    case {length(Stops), length(lists:usort(Stops)), lists:last(Stops)} of
        {N, N, top} -> ok;
        Other -> {wrong, Other}
    end.
