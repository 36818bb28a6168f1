# SPDX-License-Identifier: MIT
"""Messages that the pages explain are those that the programs say."""

from __future__ import annotations

import re

import pytest
from builder.messages import GAP, Message, read_messages

from kraken_bids.errors import UsageError
from kraken_bids.flavors import Flavor


def test_every_message_explained_is_said_somewhere(pages):
    """Headings are messages or their beginnings, with the same gaps."""
    headings = re.findall(r"^### (.+)$", pages["troubleshooting"], re.MULTILINE)
    assert len(headings) > 30
    unknown = [
        heading
        for heading in headings
        if not any(message.what.startswith(heading) for message in read_messages())
    ]
    assert not unknown


def test_messages_are_read_with_gaps_for_values():
    with pytest.raises(UsageError) as caught:
        Flavor.parse("FCcor_fs86_hpf")
    found = [message for message in read_messages() if message.fits(caught.value.what)]
    assert ("flavors.py", f"flavor '{GAP}' is unknown") in {(m.module, m.what) for m in found}


def test_a_message_fits_its_values_only():
    message = Message("x.py", f"there is no folder {GAP}", "")
    assert message.fits("there is no folder /data")
    assert not message.fits("there is no file /data")
    assert not message.fits("there is no folder ")


def test_both_of_a_choice_and_the_way_to_mend_are_read():
    messages = read_messages()
    assert any(m.fix == "Give 1 or more." and m.module == "arguments/reading.py" for m in messages)
    assert {m.module.split("/")[0] for m in messages} >= {"workflows", "bids", "model", "images"}
    assert all(m.what.strip() for m in messages)
