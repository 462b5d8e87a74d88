"""What :mod:`kimi_nb.engine.download` is made of.

``remote`` asks the Hub what there is, and a ``manifest`` of it is written down on the ``shelf``; ``check``
says what is here already and ``repair`` keeps what of it is good; ``preflight`` sees that the rest fits.
``transfer`` brings it: ``source`` and ``xet`` give bytes, over a ``wire``; a ``part`` keeps them with a
journal that survives anything; a ``running`` hash proves them. ``fulfil`` puts this in order, ``adopt``
recognises folders that something else filled, ``stock`` lists and removes, ``show`` tells people how far it
is.
"""
