"""``tiercel trace webhook``."""

from __future__ import annotations

import click

from kernel import Command, Services
from kernel.cli import print_json, print_table
from plugins.trace.settings import TraceSettings
from plugins.trace.webhooks.offers import delete_offers, list_offers
from plugins.trace.webhooks.routes import PATH


def make_webhook_command(services: Services) -> Command:
    """Return the command."""

    @click.command("webhook")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def webhook(*, as_json: bool) -> None:
        """Show the verification token that Notion sent for a new webhook: for Notion's form, and NOTION_WEBHOOK_TOKEN.

        Once the variable is set, the tokens that came are forgotten.
        """
        if services.settings(TraceSettings).webhook_token is not None:
            delete_offers(services.db)
            click.echo("NOTION_WEBHOOK_TOKEN is set: events are taken.", err=True)
            return
        offers = list_offers(services.db)
        if as_json:
            print_json(offers)
        elif offers:
            print_table(
                ("came (UTC)", "verification token"), [(f"{x.offered_at:%Y-%m-%d %H:%M:%S}", x.token) for x in offers]
            )
        else:
            click.echo(f"no token came within a day; have Notion send one to https://<this service>{PATH}", err=True)

    return Command(command=webhook)
