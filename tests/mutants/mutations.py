"""The mutations: the broken rule, the change of one file, and the tests that must fail.

A change is one text of the file and its replacement. The text must occur exactly once. M16 and M21 are not used.
"""

from __future__ import annotations

from typing import NamedTuple

_STREAM = "tests.unit.stream."
_COMMON_NAME = (
    "tuple(RawName('dNSName', each.value.encode()) for each in __import__('cryptography.x509').x509"
    ".load_der_x509_certificate(leaf).subject if each.oid.dotted_string == '2.5.4.3')"
)


class Mutation(NamedTuple):
    """One mutation. `tests` are names that trial takes."""

    name: str
    broken: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "M1", "R4: mechanisms are offered before TLS", "s2sgw/stream/features.py",
        "return self.secured and not self.authenticated", "return not self.authenticated",
        (_STREAM + "test_features.OfferTests.test_every_standing",),
    ),
    Mutation(
        "M2", "R2: <starttls/> is answered before the peer's name is resolved", "s2sgw/stream/receiving_phases.py",
        "if self._unresolved:\n            self.stream.phase = ResolvingForTLS", "if False:\n            self.stream.phase = ResolvingForTLS",
        (_STREAM + "test_receiving.StartTLSTests.test_waits_for_resolution", _STREAM + "test_receiving.StartTLSTests.test_unresolved"),
    ),
    Mutation(
        "M3", "R6: plain text after <starttls/> is not refused", "s2sgw/stream/receiving_phases.py",
        "if self.stream.left_over:", "if False:", (_STREAM + "test_receiving.StartTLSTests.test_injection",),
    ),
    Mutation(
        "M4", "R8: STARTTLS is offered after TLS", "s2sgw/stream/features.py",
        'return not self.secured and self.tls != "never"', 'return self.tls != "never"',
        (_STREAM + "test_features.OfferTests.test_every_standing", _STREAM + "test_receiving.SecuredTests.test_limits"),
    ),
    Mutation(
        "M5", "R8: the initiating server keeps the features from before TLS", "s2sgw/stream/initiating_context.py",
        "        self.features = StreamFeatures()\n        self.open(", "        self.open(",
        (_STREAM + "test_initiating.SASLTests.test_features_are_forgotten",),
    ),
    Mutation(
        "M6", "R17: a common name counts", "s2sgw/trust/identity.py",
        "        return Names(tuple(found), (f\"the subjectAltName is malformed: {error}\",))\n    return Names(tuple(found))",
        f"        return Names(tuple(found), (f\"the subjectAltName is malformed: {{error}}\",))\n    return Names(tuple(found) or {_COMMON_NAME})",
        ("tests.unit.trust.test_proofs.PKIXTests.test_common_name", "tests.unit.trust.test_identity.ExtractionTests.test_common_name_is_nothing"),
    ),
    Mutation(
        "M7", "R13: the target of an SRV record counts as identity without DNSSEC", "s2sgw/trust/proofs.py",
        'secure_delegation and evidence.target_secure and evidence.role == "receiving"', 'evidence.role == "receiving"',
        ("tests.unit.trust.test_proofs.PKIXTests.test_srv_target_is_no_identity",),
    ),
    Mutation(
        "M8", "R24: EXTERNAL accepts any authorization identity", "s2sgw/stream/sasl.py",
        "if message and not self._is_peer(message):", "if False:", (_STREAM + "test_sasl.ExternalTests.test_invalid_authzid",),
    ),
    Mutation(
        "M9", "R10: renegotiation is ignored", "s2sgw/net/tls.py",
        "watch.renegotiationAttempted()", "pass", ("tests.unit.net.test_tls.RenegotiationTests",),
    ),
    Mutation(
        "M10", "R11: no certificate is requested from the peer", "s2sgw/net/tls.py",
        "SSL.VERIFY_PEER", "SSL.VERIFY_NONE", ("tests.unit.net.test_tls.EvidenceTests",),
    ),
    Mutation(
        "M11", "R11: the certificate is chosen without regard to `to`", "s2sgw/net/tls.py",
        "credential = self._credential_for(domain) or self._credential_for(None)", "credential = self._credential_for(None)",
        ("tests.unit.net.test_tls.ChoiceTests.test_starttls_chooses_by_the_header",),
    ),
    Mutation(
        "M12", "R20: a changed key passes as pinned", "s2sgw/trust/proofs.py",
        "if presented not in pins:", "if False:", ("tests.unit.trust.test_proofs.PinTests.test_changed_key",),
    ),
    Mutation(
        "M13", "R12: the initiating server ignores the verdict", "s2sgw/stream/initiating_phases.py",
        "if permission.refusal is not None:", "if False:", (_STREAM + "test_initiating.TLSTests.test_judged",),
    ),
    Mutation(
        "M14", "R8: the stream id stays the same after TLS", "s2sgw/stream/receiving_phases.py",
        "return Asserted(peer, local, self.stream.new_id(), pre_1_0)", 'return Asserted(peer, local, "s1", pre_1_0)',
        (_STREAM + "test_receiving.SecuredTests.test_limits_kept_to_ourselves",),
    ),
    Mutation(
        "M15", "R7: a TLS failure is reported by </stream:stream>", "s2sgw/stream/negotiation.py",
        "Nothing is sent meanwhile (R5).\"\"\"\n\n    mute = True", "Nothing is sent meanwhile (R5).\"\"\"\n\n    mute = False",
        (_STREAM + "test_receiving.StartTLSTests.test_ended_during_the_handshake",),
    ),
    Mutation(
        "M17", "R1: the gateway's header has no version", "s2sgw/xmpp/header.py",
        '("version", version)', '("version", None)', ("tests.unit.xmpp.test_header.HeaderTests.test_header",),
    ),
    Mutation(
        "M18", "R24: dialback is used before SASL", "s2sgw/stream/initiating_phases.py",
        "mechanisms = sasl.choose(self.stream.means)", "mechanisms = list[ClientMechanism]()",
        (_STREAM + "test_initiating.TLSTests.test_external",),
    ),
    Mutation(
        "M19", "R3: <required/> is missing", "s2sgw/stream/features.py",
        'required = [Element("required", TLS)] if standing.bare else []', "required = list[Element]()",
        (_STREAM + "test_features.OfferTests.test_required",),
    ),
    Mutation(
        "M20", "R17: an xmppAddr that is not a UTF8String is accepted", "s2sgw/trust/identity.py",
        "if rest or element.tag != tag:", "if rest:", ("tests.unit.trust.test_identity.ExtractionTests.test_malformed_other_names_drop_out",),
    ),
    Mutation(
        "M22", "R25: a stream after SASL may be of another pair", "s2sgw/stream/receiving_phases.py",
        "if asserted.peer not in (None, self._pair.sender) or asserted.local != self._pair.recipient:", "if False:",
        (_STREAM + "test_receiving.SASLTests.test_restart",),
    ),
    Mutation(
        "M23", "R17: a wildcard covers several labels", "s2sgw/trust/identity.py",
        'yield _Identifier("dNSName", lambda value: value.lower() in hosts, lambda pattern: _dns_id(domain.ascii).verify(pattern))',
        'yield _Identifier("dNSName", lambda value: value in hosts or (value[:2] == b"*." and host.endswith(value[1:])), lambda pattern: True)',
        ("tests.unit.trust.test_identity.MatchTests.test_wildcards",),
    ),
    Mutation(
        "M24", "R26: the server's SCRAM proof is not verified", "s2sgw/sasl/scram.py",
        "if not hmac.compare_digest(_decoded(found[2]), self._verifier):", "if False:",
        ("tests.unit.sasl.test_scram.ClientTests.test_verifiers",),
    ),
    Mutation(
        "M25", "R27: unsolicited dialback answers count", "s2sgw/stream/initiating_phases.py",
        "if pair not in self._pairs:\n            raise dialback.unsolicited(element)\n        self._pairs.remove(pair)", "self._pairs.discard(pair)",
        (_STREAM + "test_initiating.DialbackTests.test_unsolicited",),
    ),
    Mutation(
        "M26", "R20: a changed key is refused, and the operator is not notified", "s2sgw/peerdb/peer_records.py",
        "emit = self.log.critical if first else self.log.warn", "emit = self.log.debug",
        ("tests.unit.peerdb.test_peer_records.PeerRecordsTests.test_ask",),
    ),
    Mutation(
        "M27", "R2: a name that was not resolved passes", "s2sgw/stream/receiving_phases.py",
        'raise self.unasked("resolved")\n        if refusal is not None:', 'raise self.unasked("resolved")\n        if False:',
        (_STREAM + "test_receiving.StartTLSTests.test_unresolved",),
    ),
    Mutation(
        "M28", "R19: the cause does not tell which check failed", "s2sgw/trust/proofs.py",
        'return Attempt("pkix", False, causes[0],', 'return Attempt("pkix", False, Cause.BAD_CHAIN,',
        ("tests.unit.trust.test_proofs.PKIXTests",),
    ),
    Mutation(
        "M29", "R7: <proceed/> is sent without a certificate to present", "s2sgw/net/connection.py",
        "self._events.extend(self.engine.tls_unavailable(Ending(Cause.INTERNAL, failure.getErrorMessage())))",
        "self._events.extend(self.engine.tls_ready())",
        ("tests.unit.net.test_connection.StartTLSTests.test_no_way_to_open_tls",),
    ),
    Mutation(
        "M30", "R26: the response of DIGEST-MD5 is not verified", "s2sgw/sasl/digest_md5.py",
        'if not hmac.compare_digest(given["response"].encode(), expected.encode()):', "if False:",
        ("tests.unit.sasl.test_digest_md5.ServerTests.test_secret",),
    ),
    Mutation(
        "M31", "R38: DIGEST-MD5 is offered without the policy", "s2sgw/stream/events.py",
        "mechanisms: tuple[Mechanism, ...] = MECHANISMS", 'mechanisms: tuple[Mechanism, ...] = (*MECHANISMS, "DIGEST-MD5")',
        (_STREAM + "test_secrets.LegacyTests.test_off",),
    ),
    Mutation(
        "M32", "R26: DIGEST-MD5, which can be relayed, is sent to a peer without another proof", "s2sgw/stream/sasl.py",
        "return means.secret is not None and means.peer is not None and not means.mutual",
        "return means.secret is not None and means.peer is not None", (_STREAM + "test_secrets.ChoiceTests.test_legacy",),
    ),
    Mutation(
        "M33", "R29: a stanza of an unproven pair passes", "s2sgw/stream/proven_pairs.py",
        "            raise self._stranger(pair, serves)\n", "            pass\n",
        (_STREAM + "test_receiving.StanzaTests.test_unproven",),
    ),
    Mutation(
        "M34", "R12: a zero handshake needs no pinned key", "s2sgw/stream/zero_handshake.py",
        "if each.refusal is None and each.pinned}", "if each.refusal is None}", (_STREAM + "test_zero_handshake.ReceivingTests.test_unknown",),
    ),
    Mutation(
        "M35", "R14: a proxy gets any name in an SRV record", "s2sgw/s2s/federation_initiating.py",
        "if is_host(target.host) or is_address(target.host)]", "]",
        ("tests.unit.s2s.test_federation_initiating.ProxyTests.test_names",),
    ),
)
