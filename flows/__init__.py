"""What a person or a schedule starts: recipes as chains of tasks, the one-page pipeline, and the CLI."""
