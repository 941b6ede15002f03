"""A shard: some peers of a population, for whom it trains, speaks and hears; what leaves it is carried by somebody else.

A shard holds one peer in a node, hundreds in a worker process, and all of them in the simulator, which carries nothing.
All three run the same code: ``Kept`` (or ``Streaming``) over a ``Population`` whose cohorts have the held peers only.

    run = find_recipe("dsgd").build({"peers": 8})   # a ``learning.Run``: checked, nothing built yet
    shard = Shard(run, [3], remote=True)            # ConfigError, by name, for a part that cannot be split so
    for t in range(1, run.rounds + 1):
        weather = shard.weather(t)                  # faults of the schedule: the same everywhere
        plan = shard.plan(t, weather)               # the same everywhere: overlays are functions of (t, members, seed)
        steps = shard.round(t, plan, weather)       # a generator: nothing runs until it is asked
        heard: Packets = {}
        try:
            swap = next(steps)                      # trains up to the first exchange, speaks
            while True:
                heard = await carry(swap)           # {address: bytes}; may have fewer than swap.expect, and wrong bytes
                swap = steps.send(heard)            # hears, trains, speaks again
        except StopIteration as done:
            outcome = done.value                    # who trained, what its peers sent, losses, events

``Swap.packets`` are what the held peers say, ``Swap.routes`` whom each message should reach, ``Swap.expect`` what is
waited for. A message that does not come is like one that was lost: its weight goes to those that did come. One that does
not decode, or is not accepted, is dropped and counted (``shard.wiring.meter.rejected``) and told in
``shard.wiring.events``. The number and order of a round's swaps follow from its plan, so that ``(t, swap.number)`` names
a swap everywhere; ``shard.swaps(plan)`` counts them beforehand. A blocking ``next`` or ``send`` is training: a node calls
it in a thread (``await net.run(next, steps)``), with ``StopIteration`` caught inside.

State: ``shard.snapshot(t)`` and ``shard.restore(snapshot)``; rows, state and books of the held peers lie in
``shard.wiring.population``, what they sent in ``shard.wiring.meter``, their data in ``shard.wiring.shards``.
"""
