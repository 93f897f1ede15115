"""Where flows run: work pools, schedules, limits and automations, kept apart from what they compute."""
