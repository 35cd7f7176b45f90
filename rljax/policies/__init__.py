"""Policies that no gradient has trained: random words, rules, templates, retrieval."""
