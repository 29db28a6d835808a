%% Runs one program at a time, when asked by a line "Name Arg ..." on standard input.
%% Answers two lines: "ran" when the clock has stopped, so that the other side reads this process's CPU clock before
%% anything is checked; then, asked to "check", one line: "ok WallMicroseconds Ops Extra" or "bad Reason".
%% Every run has a process and a heap of its own; garbage is collected before.
-module(worker).
-export([main/0]).

main() ->
    io:format("ready ~s~n", [erlang:system_info(otp_release)]),
    loop().

loop() ->
    case io:get_line("") of
        eof -> halt(0);
        {error, _} -> halt(1);
        Line ->
            [Name | Args] = string:tokens(string:trim(Line), " "),
            one(list_to_atom("b_" ++ Name), [list_to_integer(A) || A <- Args]),
            loop()
    end.

one(Mod, Args) ->
    [erlang:garbage_collect(P) || P <- erlang:processes()],
    io:format("begin~n"),
    "go\n" = io:get_line(""),
    Self = self(),
    {Pid, Mon} = spawn_monitor(fun() ->
        T0 = erlang:monotonic_time(microsecond),
        {Result, Ops, Extra} = Mod:run(Args),
        T1 = erlang:monotonic_time(microsecond),
        Self ! {ran, self(), T1 - T0},
        receive check -> ok end,
        Self ! {self(), Mod:check(Args, Result), Ops, if is_function(Extra) -> Extra(); true -> Extra end}
    end),
    receive
        {ran, Pid, Wall} ->
            io:format("ran~n"),
            "check\n" = io:get_line(""),
            Pid ! check,
            receive
                {Pid, ok, Ops, Extra} -> io:format("ok ~b ~b ~s~n", [Wall, Ops, Extra]);
                {Pid, Bad, _, _} -> io:format("bad ~s~n", [flat(Bad)]);
                {'DOWN', Mon, process, Pid, Why} -> io:format("bad ~s~n", [flat(Why)])
            end,
            erlang:demonitor(Mon, [flush]);
        {'DOWN', Mon, process, Pid, Why} ->
            io:format("bad ~s~n", [flat(Why)])
    end.

flat(Term) ->
    [C || C <- lists:flatten(io_lib:format("~0p", [Term])), C >= 32].
