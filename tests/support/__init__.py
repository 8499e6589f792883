"""The common parts of the tests: certificates, fakes, transcripts, wires."""
