"""Walks of the custody model that failed while a fault of docs/durability.md was in the code, by the mutation that brings the fault back.

Each is as short as `Walk.shortened` made it, or written by hand. The model finds each fault again in a fraction of a second.
"""

from __future__ import annotations

from s2sgw.xmpp.ending import Cause
from tests.support.custody_model import CLOSED, OVER_CONTENT
from tests.support.model_servers import LOST
from tests.support.random_walks import Walk

KNOWN = {
    "C1": Walk(shared=True, steps=[
        ("says", {"which": 4, "pair": 0, "kinds": ["iq", *["message"] * 7], "number": 6}),
        ("operator", {"which": 1, "what": "drop"}),
    ]),
    "C4": Walk(shared=True, roomy=False, steps=[
        ("loses_on_one_side", {"which": 4}),
        ("says", {"which": 4, "pair": 1, "kinds": ["message", "message", "message", "iq", "message", "message"], "number": 3}),
        ("loses_on_one_side", {"which": 0}),
        ("says", {"which": 0, "pair": 5, "kinds": ["message", "message", "presence"], "number": 2}),
    ]),
    "C5": Walk(shared=False, steps=[
        ("admits", {"late": True, "which": 1, "all": True}),
        ("breaks", {"which": 1, "number": 3, "ending": LOST}),
        ("says", {"which": 2, "pair": 3, "kinds": ["message"], "number": 2}),
        ("breaks", {"which": 1, "number": 3, "ending": OVER_CONTENT}),
    ]),
    "C6": Walk(shared=True, spools=False, steps=[
        ("says", {"which": 1, "pair": 1, "kinds": ["message"] * 5, "number": 5}),
        ("opens", {"which": 1, "kind": "resumable", "granted": False}),
        ("operator", {"which": 2, "what": "drop quietly"}),
        ("lies", {"which": 2}),
        ("breaks", {"which": 2, "number": 0, "ending": CLOSED}),
    ]),
    "C7": Walk(shared=True, steps=[
        ("says", {"which": 0, "pair": 0, "kinds": ["message"], "number": 1}),
        ("opens", {"which": 0, "kind": "ping", "granted": True}),
        ("takes", {"which": 0, "number": 12}),
        ("brings", {"which": 1, "number": 20}),
        ("falls_silent_or_speaks", {"which": 2}),
        ("says", {"which": 0, "pair": 0, "kinds": ["message"], "number": 1}),
        ("time_passes", {"seconds": 31.0}),
    ]),
    "C9": Walk(shared=False, steps=[
        ("says", {"which": 0, "pair": 0, "kinds": ["iq", "presence"], "number": 6}),
        ("wall_clock_steps", {"step": -3600.0}),
        ("time_passes", {"seconds": 11.0}),
        ("time_passes", {"seconds": 31.0}),
    ]),
    "C10, C11": Walk(shared=True, spools=False, roomy=False, steps=[
        ("says", {"which": 4, "pair": 2, "kinds": ["message", "message", "presence"], "number": 4}),
        ("says", {"which": 3, "pair": 2, "kinds": ["iq", "message", "message"], "number": 6}),
        ("sweep_fails", {"which": 1, "times": 30}),
        ("time_passes", {"seconds": 610.0}),
    ]),
    "C12": Walk(shared=True, steps=[
        ("says", {"which": 5, "pair": 0, "kinds": ["iq", "iq", "message", "presence"], "number": 7}),
        ("loses_on_one_side", {"which": 2}),
        ("connects", {"which": 2, "managed": 4, "resumable": False, "back": True}),
        ("time_passes", {"seconds": 130.0}),
    ]),
    "C13": Walk(shared=True, steps=[
        ("says", {"which": 0, "pair": 0, "kinds": ["message"] * 5, "number": 5}),
        ("time_passes", {"seconds": 1.0}),
        ("disk_works", {"work": 20, "answer": 20}),
        ("is_killed", {"taken": 0, "rarely": 0}),
        ("disk_works", {"work": 20, "answer": 20}),
        ("opens", {"which": 0, "kind": "tcp", "granted": True}),
        ("breaks", {"which": 0, "number": 0, "ending": LOST}),
        ("disk_works", {"work": 20, "answer": 20}),
        ("time_passes", {"seconds": 610.0}),
    ]),
    "C14": Walk(shared=True, steps=[
        ("disk_fails", {"full": False, "reads": True, "writes": False, "hangs": False}),
        ("says", {"which": 5, "pair": 1, "kinds": ["presence"] * 5, "number": 3}),
        ("refuses", {"which": 1, "cause": Cause.NO_SUCH_DOMAIN}),
        ("time_passes", {"seconds": 0.02}),
        ("disk_works", {"work": 1, "answer": 1}),
        ("refuses", {"which": 4, "cause": Cause.NO_SUCH_DOMAIN}),
        ("disk_works", {"work": 1, "answer": 0}),
    ]),
    "C16": Walk(shared=False, steps=[
        ("says", {"which": 0, "pair": 1, "kinds": ["message", "message", "iq", "iq"], "number": 5}),
        ("refuses", {"which": 4, "cause": Cause.NO_SUCH_DOMAIN}),
        ("time_passes", {"seconds": 610.0}),
        ("says_again", {"which": 0, "account": 115}),
    ]),
    "C17": Walk(shared=True, steps=[
        ("says", {"which": 3, "pair": 3, "kinds": ["iq"], "number": 4}),
        ("time_passes", {"seconds": 31.0}),
        ("disk_works", {"work": 1, "answer": 2}),
        ("disk_works", {"work": 1, "answer": 20}),
    ]),
    "C18": Walk(shared=False, steps=[
        ("says", {"which": 1, "pair": 3, "kinds": ["presence", "message", "iq", "message", "iq", "message"], "number": 7}),
        ("breaks", {"which": 3, "number": 3, "ending": OVER_CONTENT}),
        ("opens", {"which": 0, "kind": "managed", "granted": True}),
        ("breaks", {"which": 5, "number": 20, "ending": LOST}),
    ]),
    "C19": Walk(shared=True, roomy=False, steps=[
        ("says", {"which": 5, "pair": 2, "kinds": ["iq", "presence", "presence", "message", "presence", "message"], "number": 4}),
        ("operator", {"which": 5, "what": "hold stanza"}),
        ("operator", {"which": 0, "what": "drop"}),
    ]),
    "C28": Walk(shared=True, steps=[
        ("admits", {"late": True, "which": 3, "all": True}),
        ("says", {"which": 4, "pair": 3, "kinds": [*["message"] * 7, "presence"], "number": 8}),
        ("says", {"which": 1, "pair": 2, "kinds": ["presence", "iq", "message", "message", "message"], "number": 4}),
        ("loses_on_one_side", {"which": 4}),
    ]),
    "C39": Walk(shared=True, steps=[
        ("breaks", {"which": 0, "number": 0, "ending": CLOSED}),
        ("says", {"which": 0, "pair": 2, "kinds": ["message"], "number": 1}),
        ("opens", {"which": 0, "kind": "ping", "granted": True, "back": True}),
        ("says", {"which": 2, "pair": 0, "kinds": ["message"] * 8, "number": 1}),
        ("is_stopped", {"servers_work": True, "disk_works": True, "rarely": 0}),
    ]),
    "C40": Walk(shared=False, spools=False, roomy=False, steps=[
        ("says", {"which": 4, "pair": 1, "kinds": ["message", "iq", "presence", "iq", "iq", "iq", "message"], "number": 4}),
        ("time_passes", {"seconds": 610.0}),
    ]),
}
