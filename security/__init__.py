"""Who is who: certificates, join tokens, and what a channel must have before it is trusted."""
