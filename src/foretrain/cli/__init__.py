"""The command line: a thin door that parses, calls one verb and prints."""

from foretrain.cli._app import main as main
