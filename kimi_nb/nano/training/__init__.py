"""How the shipped nano was trained. Needs the ``train`` extra; nothing else in the package imports this."""
