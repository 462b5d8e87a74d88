"""One module a verb: ``configure(parser)`` declares its options, ``main(args)`` runs it."""
