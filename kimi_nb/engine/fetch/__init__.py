"""What :mod:`kimi_nb.engine.download` is made of.

``remote`` asks the Hub what there is and writes it down in a ``manifest``; ``wire`` and ``xet`` bring bytes;
``part`` keeps them with a journal that survives anything; ``transfer`` runs the two against each other;
``verify`` proves the result, and ``shelf`` remembers what was proven.
"""
