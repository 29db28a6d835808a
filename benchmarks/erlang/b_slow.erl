%% P producers and a consumer that sleeps 1 ms after every 10 messages of 1 KiB. Its mailbox has no bound: what it grows by.
-module(b_slow).
-export([run/1, check/2]).

run([P, N, _]) ->
    Self = self(),
    M0 = erlang:memory(total),
    T0 = erlang:monotonic_time(microsecond),
    Consumer = spawn_link(fun() -> consume(P * N, 0, #{}, 0, M0, Self) end),
    [spawn_link(fun() -> produce(Consumer, I, 0, N) end) || I <- lists:seq(1, P)],
    receive {heard, Handled, Wrong, Most} -> ok end,
    Seconds = (erlang:monotonic_time(microsecond) - T0) / 1.0e6,
    {{Handled, Wrong}, P * N,
     io_lib:format("handled=~b handled_per_s=~.1f of_ideal=~.3f rss_grew_kb=~b",
                   [Handled, Handled / Seconds, Handled / Seconds / 10000, (Most - M0) div 1024])}.

produce(_, _, N, N) -> ok;
produce(To, P, I, N) ->
    To ! {P, <<I:64, 0:8128>>},
    produce(To, P, I + 1, N).

consume(All, Wrong, _, All, Most, To) -> To ! {heard, All, Wrong, Most};
consume(All, Wrong, Next, Done, Most, To) ->
    receive {P, <<I:64, _/binary>>} -> ok end,
    Bad = case maps:get(P, Next, 0) of I -> 0; _ -> 1 end,
    More = case (Done + 1) rem 10 of
        0 -> receive after 1 -> ok end, max(Most, erlang:memory(total));
        _ -> Most
    end,
    consume(All, Wrong + Bad, Next#{P => I + 1}, Done + 1, More, To).

check([P, N, _], {All, 0}) when All =:= P * N -> ok;
check(_, R) -> {wrong, R}.
