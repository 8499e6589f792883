"""Tests of the settings of a peer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.policy.model import ALL_PROOFS, PeerObject, PeerPolicy, objects_with


class PolicyTests(SynchronousTestCase):
    """Tests of complete policies."""

    def test_judges_as(self) -> None:
        """Two policies judge a peer alike if they differ in what applies to stanzas only."""
        policy = PeerPolicy(proofs=("pkix",))
        change: dict[str, Any]
        for change in ({}, {"hold": 1.0, "resume": 0.0}, {"kinds": ("message",), "objects": ("peer.example",)}, {"deny_larger_than": 9}):
            self.assertTrue(policy.judges_as(replace(policy, **change)), change)
        for change in ({"proofs": ("pin",)}, {"minimum": "1.3"}, {"allow": False}, {"deny_list": "a list", "hold": 1.0}, {"pins": ("x",)}):
            self.assertFalse(policy.judges_as(replace(policy, **change)), change)


class ObjectTests(SynchronousTestCase):
    """Tests of the keys and values of an object."""

    def test_refused(self) -> None:
        """Unknown keys and wrong values are refused."""
        keys: dict[str, Any]
        for keys in (
            {"tsl": "required"}, {"tls": "never"}, {"allow": "yes"}, {"allow": 1}, {"proofs": ["pki"]}, {"dialback": "sometimes"},
            {"minimum": "1.1"}, {"hold": 10}, {"limits": {"stanza_bytes": 9999}}, {"limits": {"streams": 0}},
            {"limits": {"streams": True}}, {"limits": {"stanzas": 1}}, {"pins": ["sha1:00"]}, {"pins": [1]}, {"route": "a:b:c"},
            {"kinds": []}, {"kinds": ["messages"]}, {"deny_namespaces": [""]}, {"deny_namespaces": ["a}b"]}, {"deny_namespaces": ["x" * 1025]},
            {"deny_namespaces": [1]}, {"denied": "reject"}, {"resolve": "never"}, {"features": {"tls": True}}, {"features": {"sm": 1}},
            {"limits": {"stanzas_per_second": -1}}, {"limits": {"stanzas_per_second": "x"}}, {"limits": {"stanzas_per_second": {"messages": 1}}},
            {"limits": {"stanzas_per_second": 1.5}}, {"limits": {"bytes_per_second": -1}}, {"limits": {"excess": "drop"}},
        ):
            with self.assertRaises(ValidationError, msg=str(keys)):
                PeerObject(**keys)

    def test_all_proofs(self) -> None:
        """Every known method may be listed."""
        self.assertEqual(ALL_PROOFS, PeerObject(proofs=("pkix", "dane", "posh", "pin")).proofs)


    def test_objects_with(self) -> None:
        """The objects that write one of some keys are found, also if they write the default."""
        peers = {"a": PeerObject(allow=True, tls="required"), "b": PeerObject(), "c": PeerObject.model_validate({"hold": "1m"}).compact()}
        self.assertEqual({"a": ["tls"], "c": ["hold"]}, {
            name: sorted(each.model_fields_set & {"tls", "hold"}) for name, each in objects_with(peers, "tls", "hold")
        })
        self.assertEqual({}, dict(objects_with(peers, "pins")))

    def test_compact(self) -> None:
        """A compact object gives the same answers to all questions, and holds nothing more."""
        said = {"allow": False, "hold": "1m", "limits": {"streams": 3, "stanzas_per_second": {"iq": 5}}, "features": {"sm": False}}
        whole, compact = (PeerObject.model_validate(said) for _ in range(2))
        self.assertIs(compact, compact.compact())
        base = PeerPolicy()
        self.assertEqual(whole.refine(base, "x"), compact.refine(base, "x"))
        self.assertEqual(whole.model_dump(exclude_unset=True), compact.model_dump(exclude_unset=True))
        self.assertEqual((None, None, False), (compact.pins, compact.limits and compact.limits.stanza_bytes, compact.allow))
        self.assertEqual((set(said), 4), (compact.model_fields_set, len(vars(compact))))
        self.assertEqual(compact, PeerObject.model_validate(said).compact())
        self.assertNotEqual(compact, PeerObject.model_validate(said | {"allow": True}).compact())
        self.assertRaises(AttributeError, getattr, compact, "nonsense")
        self.assertEqual(compact, compact.compact())

    def test_compact_shares(self) -> None:
        """Objects with the same keys share the set of keys."""
        first, second = (PeerObject(allow=allow).compact() for allow in (False, True))
        self.assertIs(first.model_fields_set, second.model_fields_set)
        self.assertEqual((set(), PeerPolicy().allow), (PeerObject().compact().model_fields_set, PeerObject().compact().refine(PeerPolicy(), "x").allow))
