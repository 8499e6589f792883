"""From a connection to a verdict: look the evidence up, run the proofs, ask the policy."""
