"""Train nano: plain PyTorch, seeded, resumable. Needs the ``train`` extra; nothing else here imports this.

From random weights, 15 minutes on one H200; run again, it goes on where it was interrupted::

    python -m kimi_nb.nano.training.fit --out DIR

Where one sitting is too short, stop before the rate falls, and go on from the weights anywhere::

    python -m kimi_nb.nano.training.fit --out ONE --limit-s 480 --fall 0
    python -m kimi_nb.nano.training.fit --out TWO --start ONE --first-step STEPS_DONE --seed 2

From the shipped weights, after the world has changed, 8 minutes (so the last stage was made)::

    python -m kimi_nb.nano.training.weights kimi_nb/nano/data/nano.gguf START
    python -m kimi_nb.nano.training.fit --out DIR --start START --steps 12000 --limit-s 470 --seed 12

Then ``python -m kimi_nb.nano.training.weights DIR nano.gguf`` writes what llama.cpp runs;
``benchmarks/parity_nano.py`` compares the two, and ``benchmarks/judge_nano.py`` examines it. The loss curve
is ``DIR/losses.json``.
"""
