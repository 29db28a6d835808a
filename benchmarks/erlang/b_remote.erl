%% N requests to an echo on another node, with at most Window outstanding; answers come in order, each with its text.
-module(b_remote).
-export([run/1, check/2]).

run([N, Window, Size]) ->
    {Echo, Texts} = far:echo(Size),
    Cpu = far:cpu(),
    send(Echo, Texts, 0, min(Window, N)),
    Spans = case Window of
        1 -> one(Echo, Texts, 0, N, []);
        _ -> many(Echo, Texts, 0, min(Window, N), N), []
    end,
    Tally = far:tally(Echo),
    Far = far:cpu() - Cpu,
    {{N, Tally}, N, fun() -> [io_lib:format("far_cpu_s=~.3f", [Far / 1000]) | percentiles(Spans)] end}.

send(_, _, B, B) -> ok;
send(Echo, Texts, I, B) ->
    Echo ! {ask, self(), I, element(I rem 97 + 1, Texts)},
    send(Echo, Texts, I + 1, B).

one(_, _, N, N, Spans) -> Spans;
one(Echo, Texts, I, N, Spans) ->
    T0 = erlang:monotonic_time(nanosecond),
    Text = element(I rem 97 + 1, Texts),
    if I > 0 -> Echo ! {ask, self(), I, Text}; true -> ok end,  % the first is on its way
    receive {reply, I, Text} -> ok end,
    one(Echo, Texts, I + 1, N, [erlang:monotonic_time(nanosecond) - T0 | Spans]).

many(_, _, N, _, N) -> ok;
many(Echo, Texts, Next, Sent, N) ->
    Text = element(Next rem 97 + 1, Texts),
    receive {reply, Next, Text} -> ok end,
    More = min(Sent + 1, N),
    send(Echo, Texts, Sent, More),
    many(Echo, Texts, Next + 1, More, N).

percentiles([]) -> [];
percentiles(Spans) ->
    Sorted = lists:sort(Spans),
    [io_lib:format(" p~b_us=~.2f", [P, lists:nth(length(Sorted) * P div 100 + 1, Sorted) / 1000]) || P <- [50, 99]].

check([N, _, _], {N, {N, 0}}) -> ok;
check(_, R) -> {wrong, R}.
