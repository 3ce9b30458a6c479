package main

import (
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
