%% A second node in a process of its own, over Erlang's distribution on loopback, and an echo on it. The node is started
%% when it is first asked for; no port mapper runs: both sides know the port.
-module(far).
-export([echo/1, loop/3, texts/1, cpu/0, tally/1]).

node_() ->
    case persistent_term:get(far_node, none) of
        none ->
            {ok, [[Port]]} = init:get_argument(erl_epmd_port),
            {ok, _, Node} = peer:start(#{name => peer:random_name(), host => "127.0.0.1", longnames => true,
                                         connection => standard_io,
                                         args => ["+S", "1:1", "-setcookie", "bench", "-start_epmd", "false",
                                                  "-erl_epmd_port", Port, "-kernel", "inet_dist_use_interface",
                                                  "{127,0,0,1}", "-pa" | code:get_path()]}),
            {ok, _} = net_kernel:start('near@127.0.0.1', #{name_domain => longnames, dist_listen => false}),
            erlang:set_cookie(bench),
            true = net_kernel:connect_node(Node),
            persistent_term:put(far_node, Node),
            Node;
        Node -> Node
    end.

%% An echo for texts of that many bytes; both sides have made the texts.
echo(Size) ->
    Node = node_(),
    Texts = texts(Size),
    Texts = erpc:call(Node, ?MODULE, texts, [Size]),
    {spawn_link(Node, ?MODULE, loop, [0, 0, Size]), Texts}.

%% 97 texts that differ.
texts(Size) ->
    case persistent_term:get({texts, Size}, none) of
        none ->
            Made = list_to_tuple([text(I, Size) || I <- lists:seq(0, 96)]),
            persistent_term:put({texts, Size}, Made),
            Made;
        Made -> Made
    end.

text(I, Size) ->
    X = lists:foldl(fun(_, {Y, Bytes}) -> Z = bench:next(Y), {Z, [Z rem 256 | Bytes]} end, {bench:rng(I), []},
                    lists:seq(1, Size)),
    list_to_binary(element(2, X)).

%% Counts what it handled, and what was out of order or changed.
loop(Handled, Wrong, Size) -> heard(Handled, Wrong, texts(Size)).

heard(Handled, Wrong, Texts) ->
    receive
        {ask, From, I, Text} ->
            From ! {reply, I, Text},
            heard(Handled + 1, Wrong + wrong(I, Handled, Text, Texts), Texts);
        {note, I, Text} ->
            heard(Handled + 1, Wrong + wrong(I, Handled, Text, Texts), Texts);
        {tally, From} ->
            From ! {tally, {Handled, Wrong}}
    end.

wrong(I, I, Text, Texts) when element(I rem 97 + 1, Texts) =:= Text -> 0;
wrong(_, _, _, _) -> 1.

%% What it handled, and how much of that was wrong; it ends.
tally(Echo) ->
    Echo ! {tally, self()},
    receive {tally, T} -> T end.

%% Milliseconds of CPU of the other node so far.
cpu() -> element(1, erpc:call(node_(), erlang, statistics, [runtime])).
