"""What the tests with other systems share: a server of their own, and checks that say what was compared."""
