"""What users and we test with; the fixtures are in ``tasker.testing.plugin``."""
