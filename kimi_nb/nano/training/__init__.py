"""Train nano: plain PyTorch, seeded, resumable. Needs the ``train`` extra; nothing else here imports this.

From random weights, 15 minutes on one H200; run again, it goes on where it was interrupted::

    python -m kimi_nb.nano.training.fit --out DIR

To go on from the shipped weights after the world has changed; on a laptop, too, with few and short rows::

    python -m kimi_nb.nano.training.weights kimi_nb/nano/data/nano.gguf START
    python -m kimi_nb.nano.training.fit --out DIR --start START --peak 3e-4 --rows 16 --length 512

Then ``python -m kimi_nb.nano.training.weights DIR nano.gguf`` writes what llama.cpp runs;
``benchmarks/parity_nano.py`` compares the two, ``benchmarks/judge_nano.py`` examines it.
"""
