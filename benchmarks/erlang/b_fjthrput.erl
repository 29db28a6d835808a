%% A processes; the master sends message J to each in turn, for J from 0 to N-1; each adds up and is then asked.
-module(b_fjthrput).
-export([run/1, check/2]).

run([A, N]) ->
    Pids = [spawn_link(fun() -> adder(0, 0) end) || _ <- lists:seq(1, A)],
    rounds(Pids, 0, N),
    Got = [begin P ! {get, self()}, receive {P, C, S} -> {C, S} end end || P <- Pids],
    {Got, A * N, "messages"}.

rounds(_, N, N) -> ok;
rounds(Pids, J, N) -> [P ! {add, J} || P <- Pids], rounds(Pids, J + 1, N).

adder(C, S) ->
    receive
        {add, J} -> adder(C + 1, S + J);
        {get, From} -> From ! {self(), C, S}
    end.

check([A, N], Got) ->
    case lists:duplicate(A, {N, N * (N - 1) div 2}) of Got -> ok; _ -> {wrong, Got} end.
