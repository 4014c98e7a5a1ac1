"""``fedloom list``: names that a configuration may use, and what stands behind one."""

import argparse
import re

__all__ = ["add_list"]


def add_list(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = "Names that a configuration may use, with their options and defaults."
    parser.add_argument("group", nargs="?", metavar="GROUP", help="strategies, codecs, ...")
    hint = "of the group, or a module:Name of your own: its options, with types, and what they mean"
    parser.add_argument("name", nargs="?", metavar="NAME", help=hint)
    parser.set_defaults(command=_list)


def _list(options: argparse.Namespace) -> int:
    from fedloom.catalog import groups, listed

    if options.name:
        return _describe(options.group, options.name)
    for group in [options.group] if options.group else groups():
        entries = listed(group)
        width = max((len(entry.name) for entry in entries), default=0)
        print(f"{group}:")
        for entry in entries:
            print(f"  {entry.name:<{width}}  {entry.text}".rstrip())
            if entry.options:
                print(f"  {'':<{width}}    {', '.join(entry.options)}")
    return 0


def _describe(group: str, name: str) -> int:
    from fedloom.catalog import described

    entry = described(group, name)
    # What is raised says nothing to who writes a configuration.
    about = re.sub(r"\n+Raises:\n(    .*\n?|\n)*", "\n", entry.about or entry.text).strip()
    print(f"{entry.name}: {about}" if about else entry.name)
    if entry.typed:
        print("\nOptions:")
        for option in entry.typed:
            print(f"    {option}")
    return 0
