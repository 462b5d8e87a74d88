"""One module a verb of the command line: ``configure(parser)`` declares its options, ``main(args)`` runs it."""
