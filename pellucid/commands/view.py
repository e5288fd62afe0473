"""`pellucid view`: records, or the embedded model on a date, on a page in the browser."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import pellucid
from pellucid.commands.console import tell
from pellucid.commands.errors import InputError
from pellucid.commands.profiles import viewed
from pellucid.commands.profiles.shown import is_profile
from pellucid.commands.records import is_record, opened
from pellucid.commands.watch import TOP, embedded
from pellucid.record.disk.manifest import RecordError
from pellucid.record.record import Record
from pellucid.viewer import browser

DATE = "3 mars 1997"


def run(options: argparse.Namespace) -> int:
    """Show what is named until Ctrl-C; the exit status.

    Raises:
        InputError: a record cannot be opened, or `shown` cannot show it.

    """
    if any(map(is_profile, options.text)):
        return viewed.run(options)
    named = [is_record(text) for text in options.text]
    if any(named) and not all(named):
        raise InputError(f"RECORD: {options.text[named.index(False)]} is no record; give records alone, or a date")
    if any(named):
        return shown({f"r{number}": _opened(Path(text)) for number, text in enumerate(options.text)}, options)
    date = " ".join(options.text) or DATE
    opens = f"from pellucid.commands.view import of_date\nrecord = of_date({date!r})"
    return shown({"r0": of_date(date)}, options, opens={"r0": opens})


def shown(
    records: Mapping[str, Record],
    options: argparse.Namespace,
    lesson: dict[str, Any] | None = None,
    opens: Mapping[str, str] | None = None,
) -> int:
    """Serve records, or save a page of them, as the options of `cli.add_page_options` say; the exit status.

    Args:
        records: by id.
        options: of the command.
        lesson: what the page leads through.
        opens: by record, the lines of Python that make it, of those that are no file.

    Raises:
        InputError: the packages for it are missing, the port is in use, or the page cannot be saved.

    """
    try:
        status = browser.show(
            records,
            lesson=lesson,
            port=options.port,
            open_browser=not options.no_browser,
            save=options.save,
            opens=opens,
        )
    except RecordError as error:
        raise InputError(str(error)) from error
    except ImportError as error:
        raise InputError(f"{error}") from error
    except (OSError, ValueError) as error:
        option = "--port" if options.save is None else "--save"
        raise InputError(f"{option}: {(isinstance(error, OSError) and error.strerror) or error}") from error
    if options.save is not None:
        tell(f"saved {options.save}")
    return status


def of_date(text: str) -> Record:
    """What the embedded model does when it reads a date, all of it kept. Raises InputError."""
    prepared = embedded(text)
    watching = pellucid.watch(
        prepared.model,
        keep=True,
        more=[pellucid.TopK(TOP)],
        tokens=[prepared.tokens],
        source_tokens=None if prepared.source_tokens is None else [prepared.source_tokens],
    )
    with torch.inference_mode(), watching as record:
        prepared.run()
    record.model = prepared.name
    return record


def _opened(path: Path) -> Record:
    try:
        record = opened(path, skip_damaged=True)
    except RecordError as error:
        raise InputError(str(error)) from error
    damaged = [missed for missed in record.missed if "is damaged" in missed.reason]
    for missed in damaged:
        tell(f"warning: {missed.name} is left out: {missed.reason}")
    return record
