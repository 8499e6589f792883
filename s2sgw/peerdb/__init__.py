"""Records of peers on disk: keys, pending certificates, past proofs, handshakes, refusals."""
