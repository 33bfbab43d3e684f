"""The pure state machines of zkv, and their parts. No socket, clock, thread or randomness of their own."""
