"""What the tests share: certificates, fakes, transcripts, wires."""
