"""The mutations of custody: each breaks one promise of docs/custody.md, or brings back a fault of docs/durability.md.

`FAULTS` are the faults, `PROMISES` the promises. `make mutants MUTANTS=custody` plays them, with the tests that the documents name.
`make mutants MUTANTS="custody --model"` plays those which the model must find as well (`MODEL`), with the model alone.
"""

from __future__ import annotations

from tests.mutants.mutations import Mutation

_BOUNCES = "tests.unit.delivery.test_bounces."
_QUEUE = "tests.unit.delivery.test_queue."
_SPOOLING = "tests.unit.delivery.test_spooling."
_AGENT = "tests.unit.delivery.test_agent.CourierTests."
_INGRESS = "tests.unit.ingress.test_stream_ingress."
_PAIR_INGRESS = "tests.unit.ingress.test_pair_ingress."
_SHUTDOWN = "tests.integration.test_shutdown.ShutdownTests."
_GATEWAYS = "tests.integration.test_two_gateways."
_SQLITE = "tests.unit.spool.test_sqlite_spool."
_SALVAGE = "tests.unit.spool.test_salvage."
_SELECTION = "tests.unit.delivery.test_ack_selection.AckSelectionTests."
_ACKS = "tests.unit.delivery.test_acknowledgements."
_RESTORING = "tests.unit.delivery.test_restoring.BacklogTests."

#: The tests of the model: walks that found a fault, and walks by chance, which find in seconds what hypothesis also finds.
MODEL_TESTS = tuple(f"tests.properties.test_queue_model.CustodyTests.{name}" for name in ("test_known_walks", "test_walks"))

#: The mutations that the model finds too. The others concern parts that it does not drive (files, the reactor, the start), or bounds.
MODEL = ("C1", "C4", "C5", "C6", "C7", "C9", "C10", "C11", "C12", "C13", "C14", "C16", "C17", "C18", "C19", "C28", "C39", "C40", "P1", "P2", "P3", "P7", "P18")

FAULTS = (
    Mutation(
        "C1", "fault: without space, a stanza is acknowledged before its error is safe", "s2sgw/delivery/bounces.py",
        "        back.accept_errors(errors, None, BounceAck(queue, answerable, positions, told))\n",
        "        settle(answerable, DROPPED[Rule.UNANSWERABLE])\n        back.accept_errors(errors, None, BounceAck(queue, answerable, positions, told))\n",
        (_QUEUE + "SpoolTests.test_refused_and_in_doubt",),
    ),
    Mutation(
        "C2", "fault: without space, the stream that brings more is not slowed", "s2sgw/delivery/queue.py",
        "        if (overflow.active or overflow.unacked_bounces) and overflow.blocked and (crowded or not source.shared):\n            return True\n",
        "",
        (_QUEUE + "SpoolTests.test_nowhere_to_go",),
    ),
    Mutation(
        "C3", "fault: stanzas that the spool has stay in memory while others need the space", "s2sgw/delivery/memory_relief.py",
        "        if self.memory.short and self._evictable:\n",
        "        if False:\n",
        ("tests.unit.delivery.test_memory_relief.MemoryReliefTests.test_many_peers_away",),
    ),
    Mutation(
        "C4", "fault: shared streams are not slowed on a slow disk", "s2sgw/delivery/queue.py",
        "behind = self.pair_queue.unsaved > 0 and (crowded or stalled or self._waits_while_short)",
        "behind = not source.shared and self.pair_queue.unsaved > 0 and (crowded or stalled or self._waits_while_short)",
        (_QUEUE + "SpoolTests.test_slow_disk",),
    ),
    Mutation(
        "C5", "fault: a repeat is acknowledged before its first copy is safe", "s2sgw/queue/entries.py",
        "        if first.evidence is not None:\n            self.settle(first.evidence, number)\n",
        "        if True:\n            self.settle(first.evidence or __import__('s2sgw.queue.evidence').queue.evidence.WRITTEN, number)\n",
        (_INGRESS + "AcceptedTests.test_sent_again_too_soon",),
    ),
    Mutation(
        "C6", "fault: an acknowledged stanza is taken for a repeat", "s2sgw/ingress/duplicates.py",
        "        while runs and self._before + len(runs[0].hashes) <= number:\n",
        "        while False:\n",
        ("tests.unit.ingress.test_duplicates.UnacknowledgedTests.test_what_was_acknowledged_is_forgotten",),
    ),
    Mutation(
        "C7", "fault: a server that has answered pings and is now silent is believed", "s2sgw/delivery/ack_selection.py",
        "if self.answers_pings(stream) and (stream.answers or not self._mute(name)):",
        "if False:",
        (_SELECTION + "test_falls_silent",),
    ),
    Mutation(
        "C8", "fault: a stop does not wind down outgoing streams that carry both directions", "s2sgw/runtime/shutdown.py",
        "[*self._sources.bringing_streams(), *self._sources.own_bringing_streams()]",
        "[*self._sources.bringing_streams()]",
        (_SHUTDOWN + "test_streams_of_ours_that_carry_stanzas_back",),
    ),
    Mutation(
        "C9", "fault: delays count by the wall clock", "s2sgw/runtime/monotonic_clock.py",
        "    reactor.seconds = monotonic\n",
        "",
        ("tests.unit.runtime.test_monotonic_clock",),
    ),
    Mutation(
        "C10", "fault: a periodic job ends at its first error", "s2sgw/runtime/periodic_jobs.py",
        "addCallbacks(self._succeeded, self._failed)",
        "addCallbacks(self._succeeded)",
        ("tests.unit.runtime.test_periodic_jobs.PeriodicJobTests.test_survives",),
    ),
    Mutation(
        "C11", "fault: the sweep ends at the first queue that fails", "s2sgw/delivery/expiry.py",
        "            except Exception as error:  # the other queues are still swept\n                errors.append(error)\n",
        "            except ZeroDivisionError as error:\n                errors.append(error)\n",
        ("tests.unit.delivery.test_expiry.SweepTests.test_the_others_expire",),
    ),
    Mutation(
        "C12", "fault: stanzas in flight when their stream broke never expire", "s2sgw/queue/pair_queue.py",
        "        for held in in_doubt:\n            self._note_deadline(held)\n",
        "",
        ("tests.unit.queue.test_pair_queue.PairQueueTests.test_expiry_of_what_was_in_flight",),
    ),
    Mutation(
        "C13", "fault: stanzas that were read from the spool never expire", "s2sgw/queue/pair_queue.py",
        "            self.only_spooled -= 1\n            self._note_deadline(held)\n",
        "            self.only_spooled -= 1\n",
        ("tests.unit.queue.test_pair_queue.PairQueueTests.test_expiry_of_what_was_read_back",),
    ),
    Mutation(
        "C14", "fault: a read error is taken for an empty answer", "s2sgw/delivery/spooling.py",
        "            self._failed(str(spooled), at_most)\n            return\n        self.reading",
        "            spooled = []\n        self.reading",
        (_SPOOLING + "UnreadableTests.test_read_again",),
    ),
    Mutation(
        "C15", "fault: an insert replaces another stanza", "s2sgw/spool/tables.py",
        'f"INSERT INTO stanza (id, {COLUMNS}) VALUES "',
        'f"INSERT OR REPLACE INTO stanza (id, {COLUMNS}) VALUES "',
        (_SQLITE + "SQLiteSpoolTests.test_nothing_is_replaced",),
    ),
    Mutation(
        "C16", "fault: positions are used again after a queue was forgotten", "s2sgw/delivery/queue_table.py",
        "        self.begin_behind(queue.pair_queue.next_position)\n",
        "",
        (_QUEUE + "SpoolTests.test_positions_are_never_used_again",),
    ),
    Mutation(
        "C17", "fault: an answered stanza is removed before its error is safe", "s2sgw/delivery/bounces.py",
        "        positions = queue.leave(answerable)\n",
        "        positions = queue.leave(answerable)\n        queue.strike_off(positions)\n",
        (_QUEUE + "SpoolTests.test_answered_and_not_struck_off",),
    ),
    Mutation(
        "C18", "fault: the answer to a request that was asked again is dropped", "s2sgw/delivery/queue.py",
        "                self._services.late.asked_again(self._inverse, stanza)\n",
        "                pass\n",
        (_QUEUE + "DoubtTests.test_asked_again",),
    ),
    Mutation(
        "C19", "fault: a hold outlives its stanza", "s2sgw/delivery/queue.py",
        "            self._services.holds.ended(self.pair, ended)\n",
        "            pass\n",
        ("tests.unit.admin.test_queue_verbs.HoldTests.test_ends_with_its_stanza",),
    ),
    Mutation(
        "C20", "fault: altered rows are delivered", "s2sgw/spool/tables.py",
        '    return "" if crc32(data) == content_sum else "content"\n',
        '    return ""\n',
        (_SALVAGE + "AlteredTests",),
    ),
    Mutation(
        "C21", "fault: a damaged page sets the whole spool aside", "s2sgw/spool/sqlite_spool.py",
        "                saved = salvage(pages, connection, pages.unreadable | set(failing))\n",
        "                saved = Salvage()\n",
        (_SALVAGE + "PageTests.test_unreadable_page",),
    ),
    Mutation(
        "C22", "fault: commits behind a bad frame of the log vanish", "s2sgw/spool/sqlite_spool.py",
        "            if log is None or not log.commits_behind:\n                return None\n",
        "            return None\n",
        (_SALVAGE + "LogTests.test_commits_behind_the_damage",),
    ),
    Mutation(
        "C23", "fault: an empty secret is accepted", "s2sgw/runtime/state_directory.py",
        "    if len(secret) != SECRET_BYTES:\n        raise",
        "    if False:\n        raise",
        ("tests.unit.runtime.test_state_directory.StateDirectoryTests.test_no_secret",),
    ),
    Mutation(
        "C24", "fault: a file of state is not synced before it is renamed", "s2sgw/storage/atomic_file.py",
        "            file.flush()\n            os.fsync(file.fileno())\n",
        "            file.flush()\n",
        ("tests.unit.storage.test_atomic_file.WriteTests",),
    ),
    Mutation(
        "C25", "fault: callers of one look-up are answered inside each other's calls", "s2sgw/net/joined_calls.py",
        "        for waiter in self._end(key, call):\n            waiter.callback(result)\n",
        "        def tell(waiters: list[Deferred[T]]) -> None:\n            if waiters:\n                waiters[0].callback(result)\n                tell(waiters[1:])\n\n        tell(self._end(key, call))\n",
        ("tests.unit.net.test_joined_calls.JoinedCallsTests.test_many",),
    ),
    Mutation(
        "C26", "fault: `queue drop` misses stanzas that only the disk has", "s2sgw/delivery/queue.py",
        "            number = len(self.pair_queue) - self.pair_queue.in_flight_count\n            self._end_all(cause)\n",
        "            number = len(self.pair_queue.waiting)\n            self._end(self.pair_queue.remove_up_to(self.pair_queue.next_position), cause)\n",
        ("tests.unit.admin.test_queue_verbs.DropTests.test_drop",),
    ),
    Mutation(
        "C28", "fault: later stanzas overtake those that wait for a look-up on another stream", "s2sgw/ingress/pair_ingress.py",
        "if self._held or (not self._admitted and self._services.lines.must_wait(self)):",
        "if self._held:",
        (_PAIR_INGRESS + "SeveralStreamsTests",),
    ),
    Mutation(
        "C30", "fault: an error that cannot be made blocks its queue", "s2sgw/delivery/spooling.py",
        "            self._is_told(bounce)\n            self._queue.pair_queue.put_back(gone)\n            raise\n",
        "            raise\n",
        (_SPOOLING + "OverflowTests.test_bounce_that_fails",),
    ),
    Mutation(
        "C31", "fault: a stop waits forever for a disk that hangs", "s2sgw/delivery/custody.py",
        "if now - self._worked_at >= STALL_SECONDS:",
        "if False:",
        ("tests.unit.delivery.test_custody.StalledTests.test_bounded",),
    ),
    Mutation(
        "C32", "fault: a stop bounces everything in one turn", "s2sgw/delivery/custody.py",
        "        while queue.ending and clock.seconds() < until:\n",
        "        while False:\n",
        (_QUEUE + "StepTests.test_without_spool", _QUEUE + "StepTests.test_stop_turn_by_turn"),
    ),
    Mutation(
        "C33", "fault: a garbled peers.sqlite ends the start with a traceback", "s2sgw/peerdb/database.py",
        "            raise DatabaseUnusable(f\"{self._path}: {error}{in_use or remedy}\") from None\n",
        "            raise\n",
        ("tests.unit.peerdb.test_database.FileTests.test_garbled",),
    ),
    Mutation(
        "C34", "fault: a step of a stop that fails ends the stop", "s2sgw/runtime/shutdown.py",
        "            except Exception:\n                self.log.failure(\"a step of the stop failed\")\n",
        "            except KeyError:\n                self.log.failure(\"a step of the stop failed\")\n",
        (_SHUTDOWN + "test_a_step_that_fails",),
    ),
    Mutation(
        "C35", "fault: the answer to a request that was asked again while the first was in flight is dropped", "s2sgw/delivery/queue.py",
        "            late.still_asked(self._inverse, answered[key], again[key])\n",
        "                pass\n",
        (_QUEUE + "DoubtTests.test_asked_again_while_in_flight",),
    ),
    Mutation(
        "C36", "fault: a ping that the router returns is answered to the peer", "s2sgw/backend/jabberd2_router.py",
        "        if services.queues.replies(pair.inverse).is_over(stanza):\n            return\n",
        "",
        ("tests.unit.backend.test_jabberd2_router.ReceivedStanzaTests.test_returned_ping",),
    ),
    Mutation(
        "C37", "fault: at a stop on a full disk, errors wait for ever behind stanzas that are on the disk", "s2sgw/delivery/queue.py",
        "            self.quiesced = self.one_chunk = False\n            if self.next_hop.ready:\n                self.next_hop_ready()\n",
        "            self.quiesced = self.one_chunk = False\n",
        (_SHUTDOWN + "test_full_disk_and_errors_behind_other_stanzas",),
    ),
    Mutation(
        "C38", "fault: two queues of a pair that cannot be delivered ask each other for room for errors without end", "s2sgw/delivery/queue.py",
        "        if not self.next_hop.ready and not self.held and self.next_hop.state != \"backing off\":\n",
        "        if not self.next_hop.ready and not self.held:\n",
        (_QUEUE + "SpoolTests.test_room_for_errors_during_a_back_off",),
    ),
    Mutation(
        "C39", "fault: a stop never winds down outgoing streams that carry both directions, early or late", "s2sgw/runtime/shutdown.py",
        "        self._sources = sources\n",
        "        self._sources = type('Others', (), {\n"
        "            'admitting': property(lambda self: sources.admitting), 'own_bringing_streams': lambda self: [],\n"
        "            'bringing_streams': lambda self: sources.bringing_streams(),\n"
        "        })()\n",
        (_SHUTDOWN + "test_streams_of_ours_that_carry_stanzas_back",),
    ),
    Mutation(
        "C40", "fault: a queue is forgotten while a stream waits for it, and the stream waits for ever", "s2sgw/delivery/queue.py",
        "        for source in slowed:\n            source.resume(self)\n",
        "",
        (_QUEUE + "SpoolTests.test_forgotten_while_a_source_waits",),
    ),
    Mutation(
        "C41", "fault: at a stop on a full disk, stanzas wait behind those in flight to a silent server until they are lost", "s2sgw/runtime/shutdown.py",
        "                queue.overflow.silent = queue in self._in_flight and self._in_flight[queue][1] <= since\n",
        "                pass\n",
        (_SHUTDOWN + "test_full_disk_and_a_silent_server",),
    ),
    Mutation(
        "C42", "fault: at a stop on a full disk, the first errors are written, and the others wait for their acknowledgement", "s2sgw/delivery/queue.py",
        "            self.quiesced = self.one_chunk = False\n            if self.next_hop.ready:\n",
        "            self.quiesced = False\n            if self.next_hop.ready:\n",
        (_SHUTDOWN + "test_full_disk_and_many_errors",),
    ),
)

PROMISES = (
    Mutation(
        "P1", "promise: a stanza is acknowledged when the next server has it", "s2sgw/delivery/queue.py",
        "        for item in gone:\n            item.settle(evidence)\n",
        "",
        (_QUEUE + "FastPathTests.test_passed_on_when_acknowledged",),
    ),
    Mutation(
        "P2", "promise: it is acknowledged only after the commit", "s2sgw/delivery/queue.py",
        "        self._services.spool.append(rows, partial(self._stored, batch, bounces), replaces)\n",
        "        settle(batch, ON_DISK)\n        self._services.spool.append(rows, partial(self._stored, batch, bounces), replaces)\n",
        (_QUEUE + "SpoolTests.test_window",),
    ),
    Mutation(
        "P3", "promise: a refused stanza is acknowledged when its error is safe", "s2sgw/delivery/bounces.py",
        "            ack = None if upstream_ack is None else RefusalAck(len(errors), upstream_ack)\n",
        "            ack = None\n            if upstream_ack is not None:\n                upstream_ack.settle(DROPPED[Rule.FILTERED], len(errors))\n",
        (_BOUNCES + "RefusedTests.test_the_error_is_spooled",),
    ),
    Mutation(
        "P4", "promise: stanzas written to a server that acknowledges nothing are acknowledged", "s2sgw/delivery/queue.py",
        "            upstream_ack.settle(WRITTEN, len(stanzas))\n",
        "            pass\n",
        (_QUEUE + "FastPathTests.test_a_hop_without_acknowledgements",),
    ),
    Mutation(
        "P5", "promise: stanzas that are filtered without an error are acknowledged", "s2sgw/ingress/pair_ingress.py",
        "                    upstream_ack.settle(DROPPED[Rule.FILTERED], len(stanzas))\n",
        "                    pass\n",
        (_INGRESS + "EntryReceiptTests.test_filtered_in_silence",),
    ),
    Mutation(
        "P6", "promise: settled receipts are counted by evidence", "s2sgw/queue/entries.py",
        "            self._tally[evidence.label] += number\n",
        "            pass\n",
        (_INGRESS + "ReceiptsTests.test_in_order",),
    ),
    Mutation(
        "P7", "promise: the longest settled prefix is acknowledged, not the stanzas settled first", "s2sgw/ingress/stream_ingress.py",
        "        while self._open and not self._open[0].left:\n            number += self._open.popleft().total\n",
        "        for each in [each for each in self._open if not each.left]:\n            self._open.remove(each)\n            number += each.total\n",
        (_INGRESS + "ReceiptsTests.test_out_of_order",),
    ),
    Mutation(
        "P8", "promise: a server that never answers pings is believed after 20 seconds", "s2sgw/delivery/acknowledgements.py",
        "        self.acknowledges = self._always\n        self._believe()\n",
        "        self.acknowledges = self._always\n",
        (_SELECTION + "test_never_answers",),
    ),
    Mutation(
        "P9", "promise: a reply that may be unread says nothing about the server", "s2sgw/delivery/acknowledgements.py",
        "        if (was_unread or self._unread) and",
        "        if False and",
        (_ACKS + "PingTests.test_a_reply_that_lies_unread",),
    ),
    Mutation(
        "P10", "promise: an acknowledgement that may be unread is not overdue", "s2sgw/delivery/acknowledgements.py",
        "left = max(self._since, self._stream.read_since) +",
        "left = self._since +",
        (_ACKS + "StreamManagementTests.test_not_read",),
    ),
    Mutation(
        "P11", "promise: the reply to a ping is consumed", "s2sgw/delivery/iq_replies.py",
        "            return Rule.PING_REPLY\n",
        "            return None\n",
        (_QUEUE + "BarrierTests.test_consumed",),
    ),
    Mutation(
        "P12", "promise: the reply to a ping does not wait for a look-up", "s2sgw/ingress/pair_ingress.py",
        "        elif stanzas := self._without_ping_replies(stanzas, upstream_ack):",
        "        elif stanzas:",
        ("tests.unit.ingress.test_filtering.FilterTests.test_own_pings_before_admission", _PAIR_INGRESS + "RateTests.test_own_pings"),
    ),
    Mutation(
        "P13", "promise: acknowledgements that have arrived are read before anything is spooled", "s2sgw/delivery/spooling.py",
        "            self._read_acks_first(late, since, ACK_TURNS)\n",
        "            self._read_acks_first(late, since, 0)\n",
        (_QUEUE + "SpoolTests.test_heard_first",),
    ),
    Mutation(
        "P14", "promise: a long queue is read back in order", "s2sgw/delivery/spooling.py",
        "            self._spool.read(self._pair_queue.pair, after, at_most, partial(self._read, after, up_to, at_most))\n",
        "            self._spool.read(self._pair_queue.pair, after + 1, at_most, partial(self._read, after, up_to, at_most))\n",
        (_QUEUE + "SpoolTests.test_more_than_memory",),
    ),
    Mutation(
        "P15", "promise: messages wait for `hold`, IQs for 30 seconds", "s2sgw/queue/entries.py",
        '        return self.iq if stanza.kind == "iq" else self.stanza\n',
        "        return self.stanza\n",
        ("tests.unit.queue.test_pair_queue.PairQueueTests.test_expiry_by_kind",),
    ),
    Mutation(
        "P16", "promise: a peer that contacts the gateway is tried at once", "s2sgw/delivery/queue.py",
        "        self.next_hop.retry_now(urged)\n        if self.restore_turn",
        "        if self.restore_turn",
        (_AGENT + "test_contact_wakes",),
    ),
    Mutation(
        "P17", "promise: a final cause bounces at once", "s2sgw/delivery/agent.py",
        "        self._record_refusal(refusal)\n        self.new_during_back_off()\n",
        "        self._record_refusal(refusal)\n",
        (_AGENT + "test_final_cause_bounces_at_once",),
    ),
    Mutation(
        "P18", "promise: no stanza that is bounced in steps is written", "s2sgw/delivery/queue.py",
        '        if self._causes or self._endings:\n            return "being-dropped"\n        if self.pair_queue.in_flight and not self.last_write:',
        "        if self.pair_queue.in_flight and not self.last_write:",
        (_QUEUE + "StepTests.test_nothing_of_it_is_passed_on",),
    ),
    Mutation(
        "P19", "promise: a drop spares stanzas in flight", "s2sgw/delivery/queue.py",
        "            self._spared |= {held.position for held in in_doubt}\n",
        "            pass\n",
        (_QUEUE + "StepTests.test_in_doubt_while_it_is_dropped",),
    ),
    Mutation(
        "P20", "promise: a stop ends a drop first", "s2sgw/delivery/custody.py",
        "            for queue in self.queues:\n                await self._end_steps(queue, until)\n            if not",
        "            if not",
        (_QUEUE + "StepTests.test_stop",),
    ),
    Mutation(
        "P21", "promise: of waiting presence only the newest is kept", "s2sgw/queue/presence.py",
        "        return None if older is None or older.gone or older.written else older\n",
        "        return None\n",
        (_QUEUE + "PresenceTests.test_newest",),
    ),
    Mutation(
        "P22", "promise: stanzas that waited get a delay stamp", "s2sgw/delivery/queue.py",
        "        if now - held.accepted_at <= DELAYED_SECONDS:\n",
        "        if True:\n",
        (_SPOOLING + "DateTests.test_stamp",),
    ),
    Mutation(
        "P23", "promise: no stanza is sent before a resumption", "s2sgw/delivery/agent.py",
        "        if not awaited:\n            self.queue.stream_lost(",
        "        if True:\n            self.queue.stream_lost(",
        (_GATEWAYS + "StandingTests.test_resumed",),
    ),
    Mutation(
        "P24", "promise: stanzas covered by `h` of <resumed/> are not sent again", "s2sgw/delivery/agent.py",
        "        self.queue.settle_in_flight(acknowledged)\n        now",
        "        now",
        (_GATEWAYS + "StandingTests.test_handled_meanwhile",),
    ),
    Mutation(
        "P25", "promise: stanzas covered by `h` of <failed/> have arrived", "s2sgw/delivery/agent.py",
        "            self.queue.settle_in_flight(0 if outcome is None else outcome.count)\n",
        "",
        (_GATEWAYS + "StandingTests.test_refused_with_a_count",),
    ),
    Mutation(
        "P26", "promise: a stream is resumed only with the same proven pairs", "s2sgw/s2s/resumption_table.py",
        "        return self.leg == owner.leg and self.proven <= owner.pairs\n",
        "        return self.leg == owner.leg\n",
        ("tests.unit.s2s.test_resumption_table.ResumptionTableTests.test_same_pairs",),
    ),
    Mutation(
        "P27", "promise: an expired stream gets its `h`", "s2sgw/s2s/resumption_table.py",
        "        return None, past.resumption.counters if past is not None and past.is_of(owner) else None\n",
        "        return None, None\n",
        ("tests.unit.s2s.test_resumption_table.ResumptionTableTests.test_past",),
    ),
    Mutation(
        "P28", "promise: the results of stanzas after their stream broke are counted", "s2sgw/ingress/stream_ingress.py",
        "        self._counters.handle(number, 0)\n",
        "        pass\n",
        (_GATEWAYS + "StandingTests.test_handled_meanwhile",),
    ),
    Mutation(
        "P29", "promise: no stanza waits longer than its hold time for a resumption", "s2sgw/delivery/agent.py",
        "            timer = self._clock.callLater(max(0.0, deadline - self._clock.seconds()), self._hold_time_over, ending)\n",
        "            timer = None\n",
        (_INGRESS + "CourierReceiptTests.test_suspended",),
    ),
    Mutation(
        "P30", "promise: a request in doubt is not sent again", "s2sgw/delivery/queue.py",
        "        self._bounce({held.position: Cause.IN_DOUBT for held in in_doubt if held.stanza.is_request})\n        self._services.record",
        "        self._services.record",
        (_QUEUE + "DoubtTests.test_a_late_answer",),
    ),
    Mutation(
        "P31", "promise: a request is marked in the spool before it is written", "s2sgw/queue/entries.py",
        "        return self.spooled and not self.written and self.stanza.is_request\n",
        "        return False\n",
        (_QUEUE + "MarkTests.test_marked_first",),
    ),
    Mutation(
        "P32", "promise: a request that was marked at a crash is answered, not sent", "s2sgw/delivery/queue.py",
        "        self._bounce({each.position: Cause.IN_DOUBT for each in held if each.written and each.stanza.is_request})\n",
        "",
        (_QUEUE + "DoubtTests.test_an_iq_on_its_way_at_a_crash",),
    ),
    Mutation(
        "P33", "promise: a late answer is dropped", "s2sgw/delivery/queue.py",
        "            late.expect(self._inverse, request)\n",
        "            pass\n",
        (_QUEUE + "DoubtTests.test_a_late_answer",),
    ),
    Mutation(
        "P34", "promise: a message that is sent again is recognised", "s2sgw/ingress/stream_ingress.py",
        "            self._services.duplicates.expect(receipts.end())\n",
        "            receipts.end()\n",
        (_INGRESS + "AcceptedTests.test_sent_again",),
    ),
    Mutation(
        "P35", "promise: the culprit among stanzas in doubt is found, one at a time", "s2sgw/delivery/queue.py",
        "        self.suspects = len(in_doubt) if poison else self.suspects\n",
        "",
        (_QUEUE + "PoisonTests.test_isolated",),
    ),
    Mutation(
        "P36", "promise: one peer leaves room in the spool for others", "s2sgw/spool/tables.py",
        "        if self.share < self.limit:\n",
        "        if False:\n",
        (_SQLITE + "ShareTests.test_many_peers_that_are_away",),
    ),
    Mutation(
        "P37", "promise: one peer leaves room in memory for others", "s2sgw/queue/memory.py",
        "        return free if free < memory.share else memory.share\n",
        "        return memory.limit\n",
        ("tests.unit.queue.test_memory.SharedMemoryTests.test_another_finds_room",),
    ),
    Mutation(
        "P38", "promise: a quarter of the allowance may be in flight", "s2sgw/queue/pair_queue.py",
        "        return in_flight > 0 and in_flight * IN_FLIGHT_PART > self.memory.allowance\n",
        "        return False\n",
        ("tests.unit.queue.test_pair_queue.PairQueueTests.test_enough_in_flight",),
    ),
    Mutation(
        "P39", "promise: a stanza without space is bounced if its error can be written", "s2sgw/delivery/spooling.py",
        "            elif queue.errors_pass:\n",
        "            elif False:\n",
        (_QUEUE + "SpoolTests.test_full",),
    ),
    Mutation(
        "P40", "promise: until the error has arrived, no later stanza overtakes it", "s2sgw/delivery/queue.py",
        '        if self.overflow.unacked_bounces:\n            return "bounce-pending"\n',
        "",
        (_QUEUE + "SpoolTests.test_refused_and_not_yet_told", _QUEUE + "SpoolTests.test_refused_and_in_doubt"),
    ),
    Mutation(
        "P41", "promise: rejected stanzas are offered to the spool again every second", "s2sgw/delivery/spooling.py",
        "        rejected, self._rejected = self._rejected, {}\n",
        "        rejected: dict[SpooledQueue, None] = {}\n",
        (_QUEUE + "SpoolTests.test_offered_again",),
    ),
    Mutation(
        "P42", "promise: a stop waits for stanzas in flight first", "s2sgw/runtime/shutdown.py",
        "        await self._while(self._awaits_acks, ACK_SECONDS)\n",
        "        await self._while(self._is_admitting, 0)\n",
        (_SHUTDOWN + "test_in_flight_first",),
    ),
    Mutation(
        "P43", "promise: waiting stanzas are sent in parts at a stop", "s2sgw/runtime/shutdown.py",
        "            queue.resume(one_chunk=spools)\n",
        "            queue.resume()\n",
        (_SHUTDOWN + "test_one_chunk_at_a_time",),
    ),
    Mutation(
        "P44", "promise: a stop may exceed `queue.disk`", "s2sgw/delivery/custody.py",
        "        self.services.spool.raise_limit(max(memory.limit, memory.used))\n",
        "",
        (_QUEUE + "SpoolTests.test_stop_beyond_the_bound",),
    ),
    Mutation(
        "P45", "promise: lost stanzas are named at a stop", "s2sgw/runtime/shutdown.py",
        "            self._custody.close, self.log_lost,\n",
        "            self._custody.close,\n",
        (_SHUTDOWN + "test_lost_is_said",),
    ),
    Mutation(
        "P46", "promise: stanzas that their sender keeps do not count as lost", "s2sgw/delivery/custody.py",
        "if not item.kept_upstream]",
        "]",
        ("tests.unit.delivery.test_custody.LostTests.test_by_pair",),
    ),
    Mutation(
        "P47", "promise: no connection is accepted before the lanes of the spool are known", "s2sgw/delivery/restoring.py",
        "                self._clock.callLater(READ_AGAIN, self._spool.queues, listed)\n",
        "                restored.callback(0)\n",
        (_SPOOLING + "UnreadableTests.test_nobody_is_let_in",),
    ),
    Mutation(
        "P48", "promise: a start delivers a limited number of lanes at a time", "s2sgw/delivery/restoring.py",
        "if not self._waiting or len(self._placed) >= self._at_once:",
        "if not self._waiting:",
        (_RESTORING + "test_in_turns",),
    ),
    Mutation(
        "P49", "promise: a full disk does not prevent the start", "s2sgw/spool/spool_file.py",
        "        if not _is_newest(connection, migrations):\n            _migrate_or_say_why",
        "        if True:\n            _migrate_or_say_why",
        ("tests.unit.spool.test_spool_file.OpenTests.test_on_a_full_disk",),
    ),
    Mutation(
        "P50", "promise: an altered stanza goes to quarantine", "s2sgw/delivery/queue.py",
        '            self._services.spool.quarantine(row, f"altered on the disk ({row.damage})", self._services.wall.seconds())\n',
        "            pass\n",
        (_SPOOLING + "DamageTests.test_content",),
    ),
    Mutation(
        "P51", "promise: a spool of a newer version is kept", "s2sgw/spool/sqlite_spool.py",
        "            keep_for_newer(self._path, str(newer), self._report)\n",
        "            self._path.unlink()\n",
        ("tests.unit.spool.test_spool_file.OpenTests.test_newer_version",),
    ),
    Mutation(
        "P52", "promise: `queue drop --quietly` sends no errors", "s2sgw/delivery/queue.py",
        "        cause = None if quietly else Cause.DROPPED_BY_OPERATOR\n        if position",
        "        cause = Cause.DROPPED_BY_OPERATOR\n        if position",
        ("tests.unit.admin.test_queue_verbs.DropTests.test_quietly",),
    ),
    Mutation(
        "P53", "promise: stanzas in doubt go first", "s2sgw/queue/pair_queue.py",
        "        self.waiting.extendleft(reversed(in_doubt))\n",
        "        self.waiting.extend(in_doubt)\n",
        (_QUEUE + "DoubtTests.test_goes_again",),
    ),
    Mutation(
        "P54", "promise: a held lane is not written", "s2sgw/delivery/queue.py",
        '        if self.held:\n            return "held"\n',
        "",
        (_SHUTDOWN + "test_held_by_the_operator",),
    ),
    Mutation(
        "P55", "promise: the last stanzas of a sender with XEP-0198 are acknowledged before the gateway's closing tag", "s2sgw/stream/management.py",
        "        if self.leaving is not None or not self.owes:\n            raise Stop(ending)\n",
        "        raise Stop(ending)\n",
        (_GATEWAYS + "ClosingTests.test_acknowledged",),
    ),
)
