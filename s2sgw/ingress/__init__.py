"""A stanza's way from the stream that brings it to its delivery queue: admission, filters, rates, duplicates."""
