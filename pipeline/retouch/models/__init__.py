"""Networks and how published weights load into them. Imports nothing itself: take what you need from its modules."""
