//! A message as a program sees it: the body ([`Body`]) and the way from `http` types to heads on the wire.
