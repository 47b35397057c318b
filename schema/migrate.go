package schema

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

var (
	// ErrNoSchema means that ClickHouse has no schema of Tipstaff's: Migrate makes one.
	ErrNoSchema = errors.New("ClickHouse has no schema yet: run `tipstaff migrate`")
	// ErrOldSchema means that the schema is older than this version: Migrate brings it up.
	ErrOldSchema = errors.New("the schema in ClickHouse is older than this tipstaff: run `tipstaff migrate`")
	// ErrNewSchema means that the schema is newer than this version, which must not touch it.
	ErrNewSchema = errors.New("the schema in ClickHouse is newer than this tipstaff: upgrade tipstaff")
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one step forward. Its statements can be run twice, so that a
// step that was cut off is run again whole, and two migrators do no harm.
type migration struct {
	version    uint32
	name       string
	statements []string
}

// migrations reads the steps in order. A fault in them is a fault of this
// build: the test finds it.
func migrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	steps := make([]migration, 0, len(names))
	for i, name := range names {
		base := strings.TrimSuffix(strings.TrimPrefix(name, "migrations/"), ".sql")
		number, title, _ := strings.Cut(base, "_")
		version, err := strconv.ParseUint(number, 10, 32)
		if err != nil || version != uint64(i)+1 || title == "" {
			return nil, fmt.Errorf("migration %s must be named %04d_<what>.sql", name, i+1)
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("read migration: %w", err)
		}
		steps = append(steps, migration{version: uint32(version), name: title, statements: statements(string(text))})
	}
	return steps, nil
}

// statements cuts a file at the semicolons that end a line. Comments on lines
// of their own are left out.
func statements(text string) []string {
	var out []string
	var stmt strings.Builder
	for line := range strings.Lines(text) {
		bare := strings.TrimSpace(line)
		if bare == "" || strings.HasPrefix(bare, "--") {
			continue
		}
		if head, ends := strings.CutSuffix(bare, ";"); ends {
			stmt.WriteString(head)
			out = append(out, stmt.String())
			stmt.Reset()
			continue
		}
		stmt.WriteString(strings.TrimRight(line, " \t\r\n") + "\n")
	}
	if strings.TrimSpace(stmt.String()) != "" {
		out = append(out, stmt.String())
	}
	return out
}

// Migrate brings the schema to this version. A newer one is refused with
// ErrNewSchema and left as it is.
func Migrate(ctx context.Context, conn driver.Conn) error {
	steps, err := migrations(migrationFiles)
	if err != nil {
		return err
	}
	return migrate(ctx, conn, steps)
}

func migrate(ctx context.Context, conn driver.Conn, steps []migration) error {
	for _, stmt := range []string{
		`CREATE DATABASE IF NOT EXISTS tipstaff`,
		`CREATE TABLE IF NOT EXISTS tipstaff.schema_migrations
			(version UInt32, name String, applied DateTime64(3, 'UTC') DEFAULT now64(3))
			ENGINE = ReplacingMergeTree ORDER BY version`,
	} {
		if err := conn.Exec(ctx, stmt); err != nil {
			return fmt.Errorf("prepare the schema: %w", err)
		}
	}
	at, err := version(ctx, conn)
	if err != nil {
		return err
	}
	if at > newest(steps) {
		return fmt.Errorf("%w (it is at %d, this tipstaff knows %d)", ErrNewSchema, at, newest(steps))
	}
	for _, m := range steps[at:] {
		for i, stmt := range m.statements {
			if err := conn.Exec(ctx, stmt); err != nil {
				return fmt.Errorf("migration %d (%s), statement %d: %w", m.version, m.name, i+1, err)
			}
		}
		err := conn.Exec(ctx, `INSERT INTO tipstaff.schema_migrations (version, name) SELECT {version:UInt32}, {name:String}`,
			clickhouse.Named("version", m.version), clickhouse.Named("name", m.name))
		if err != nil {
			return fmt.Errorf("note migration %d as done: %w", m.version, err)
		}
	}
	return nil
}

// Check refuses a schema that is not this version's: with ErrNoSchema,
// ErrOldSchema or ErrNewSchema. Other errors mean that it could not be known.
func Check(ctx context.Context, conn driver.Conn) error {
	steps, err := migrations(migrationFiles)
	if err != nil {
		return err
	}
	var tables uint64
	row := conn.QueryRow(ctx, `SELECT count() FROM system.tables WHERE database = 'tipstaff' AND name = 'schema_migrations'`)
	if err := row.Scan(&tables); err != nil {
		return fmt.Errorf("look for the schema: %w", err)
	}
	if tables == 0 {
		return ErrNoSchema
	}
	at, err := version(ctx, conn)
	switch {
	case err != nil:
		return err
	case at == 0:
		return ErrNoSchema
	case at < newest(steps):
		return fmt.Errorf("%w (it is at %d, %d is needed)", ErrOldSchema, at, newest(steps))
	case at > newest(steps):
		return fmt.Errorf("%w (it is at %d, this tipstaff knows %d)", ErrNewSchema, at, newest(steps))
	}
	return nil
}

// newest is the version that all steps together reach.
func newest(steps []migration) uint32 {
	if len(steps) == 0 {
		return 0
	}
	return steps[len(steps)-1].version
}

func version(ctx context.Context, conn driver.Conn) (uint32, error) {
	var at uint32
	if err := conn.QueryRow(ctx, `SELECT max(version) FROM tipstaff.schema_migrations`).Scan(&at); err != nil {
		return 0, fmt.Errorf("read the schema's version: %w", err)
	}
	return at, nil
}
