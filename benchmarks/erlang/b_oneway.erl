%% N messages to a process on another node, without answers; then it is asked what came.
-module(b_oneway).
-export([run/1, check/2]).

run([N, Size]) ->
    {Echo, Texts} = far:echo(Size),
    Cpu = far:cpu(),
    send(Echo, Texts, 0, N),
    Tally = far:tally(Echo),
    Far = far:cpu() - Cpu,
    {Tally, N, io_lib:format("far_cpu_s=~.3f", [Far / 1000])}.

send(_, _, N, N) -> ok;
send(Echo, Texts, I, N) ->
    Echo ! {note, I, element(I rem 97 + 1, Texts)},
    send(Echo, Texts, I + 1, N).

check([N, _], {N, 0}) -> ok;
check(_, R) -> {wrong, R}.
