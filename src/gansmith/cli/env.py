"""`gansmith env`: what a bug report needs."""

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def env(as_json: bool) -> None:
    """Print versions, processor, memory, devices and the precision that `auto` chooses here."""
    from gansmith import environment

    facts = environment.collect()
    print(json.dumps(facts, indent=2) if as_json else environment.as_text(facts))
