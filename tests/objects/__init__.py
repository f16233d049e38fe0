"""Tests on object stores: real servers, real processes."""
