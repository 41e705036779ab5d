"""Client text and client bytes, made safe: URL or base64 → bytes → RGB pixels and masks."""
