"""`python -m service.cli` is the `mlpl` command."""

from service.cli.main import main

main()
