package schema

import (
	"context"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed questions/*.sql
var questionFiles embed.FS

// Question is one that a SOC asks of the audit trail, by its name.
type Question struct {
	Name string `json:"name"`
	// Title says what is asked, Note what must be known to read the answer, Params
	// what must or may be told.
	Title  string  `json:"title"`
	Note   string  `json:"note,omitempty"`
	Params []Param `json:"params"`
	// SQL is what ClickHouse is asked, with {name:Type} for the params.
	SQL string `json:"sql"`
}

// Param is what a question must or may be told.
type Param struct {
	Name string `json:"name"`
	// Kind is text, number or time: RFC 3339, or how long ago, such as 90m, 24h or 7d.
	Kind string `json:"kind"`
	// Default is what holds where nothing is told; empty for a text that may be
	// anything. Required says that something must be told.
	Default  string `json:"default,omitempty"`
	Required bool   `json:"required,omitempty"`
	Help     string `json:"help"`
}

// common are the params of every question.
var common = []Param{
	{Name: "cluster", Kind: "text", Help: "one cluster's name; every one where it isn't given"},
	{Name: "since", Kind: "time", Default: "7d", Help: "requests from then on"},
	{Name: "until", Kind: "time", Default: "0s", Help: "requests before then"},
	{Name: "limit", Kind: "number", Default: "1000", Help: "how many rows at the most"},
}

// tries stand in a question for how many requests there are, the tries of one that
// waits in the proxy counted as one, and for what is the same in these.
var tries = strings.NewReplacer(
	"$tries$", "uniqExact("+trySQL+")",
	"$try$", trySQL,
)

const trySQL = "(if(proxied, toDateTime64(0, 6, 'UTC'), received), if(proxied, substring(audit_id, 1, 36), audit_id))"

// requests stands in a question for the requests for which a condition holds in
// the time that is asked for: each once, at the last stage that was reported, and
// as the API server tells it where the proxy tells of it, too. The condition is
// asked of each stage: a code is one only from 100 on.
var requests = regexp.MustCompile(`\$requests\(([^;]*?)\)\$`)

const requestsSQL = `(
    SELECT * FROM tipstaff.audit_events FINAL
    WHERE received >= {since:DateTime64(6, 'UTC')} AND received < {until:DateTime64(6, 'UTC')}
        AND ({cluster:String} = '' OR cluster = {cluster:String})
        AND ($1)
    ORDER BY source = 'proxy', indexOf(['RequestReceived', 'ResponseStarted', 'ResponseComplete', 'Panic'], stage) DESC, stage_time DESC
    LIMIT 1 BY cluster, issuer, if(proxied, toDateTime64(0, 6, 'UTC'), received), audit_id
)`

// Own are the params that other questions don't have.
func (q *Question) Own() []Param { return q.Params[:len(q.Params)-len(common)] }

// Questions are all of them, by name.
func Questions() ([]Question, error) { return readQuestions(questionFiles) }

func readQuestions(files fs.FS) ([]Question, error) {
	names, err := fs.Glob(files, "questions/*.sql")
	if err != nil {
		return nil, fmt.Errorf("list questions: %w", err)
	}
	all := make([]Question, 0, len(names))
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("read a question: %w", err)
		}
		q, err := parseQuestion(strings.TrimSuffix(strings.TrimPrefix(name, "questions/"), ".sql"), string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, q)
	}
	return all, nil
}

// parseQuestion reads a file: comments that say what is asked, one for each param
// (-- @NAME KIND [required|DEFAULT]: HELP), and the SQL.
func parseQuestion(name, text string) (Question, error) {
	q := Question{Name: name}
	var title []string
	for strings.HasPrefix(text, "--") {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		line = strings.TrimSpace(strings.TrimPrefix(line, "--"))
		def, isParam := strings.CutPrefix(line, "@")
		if !isParam {
			title = append(title, line)
			continue
		}
		head, help, ok := strings.Cut(def, ": ")
		words := strings.Fields(head)
		if !ok || len(words) < 2 || len(words) > 3 || !slices.Contains([]string{"text", "number", "time"}, words[1]) {
			return q, fmt.Errorf("param %q must be @NAME KIND [required|DEFAULT]: HELP", def)
		}
		p := Param{Name: words[0], Kind: words[1], Help: help}
		if len(words) == 3 {
			if p.Required = words[2] == "required"; !p.Required {
				p.Default = words[2]
			}
		}
		q.Params = append(q.Params, p)
	}
	if len(title) == 0 {
		return q, fmt.Errorf("its first line must say what is asked")
	}
	q.Title, q.Note = title[0], strings.Join(title[1:], " ")
	q.Params = append(q.Params, common...)
	q.SQL = tries.Replace(requests.ReplaceAllString(strings.TrimSpace(text), requestsSQL))
	return q, nil
}

// maxYear is the last that the store can hold whole.
const maxYear = 2260

// values gives each param as ClickHouse takes it. told are those that were told.
func (q *Question) values(told map[string]string, now time.Time) (map[string]string, error) {
	values := map[string]string{}
	for _, p := range q.Params {
		v, ok := told[p.Name]
		if !ok {
			if p.Required {
				return nil, fmt.Errorf("question %s needs --param %s=…: %s", q.Name, p.Name, p.Help)
			}
			v = p.Default
		}
		switch p.Kind {
		case "number":
			if _, err := strconv.ParseUint(v, 10, 32); err != nil {
				return nil, fmt.Errorf("--param %s=%s: it must be a whole number", p.Name, v)
			}
		case "time":
			t, err := PastTime(v, now)
			if err != nil || t.Before(time.Unix(0, 0)) || t.Year() > maxYear {
				return nil, fmt.Errorf("--param %s=%s: it must be a time such as 2026-11-30T12:00:00Z, or how long ago, such as 90m, 24h or 7d", p.Name, v)
			}
			v = t.UTC().Format("2006-01-02 15:04:05.000000")
		}
		values[p.Name] = v
	}
	for name := range told {
		if _, known := values[name]; !known {
			return nil, fmt.Errorf("question %s has no param %s: it has %s", q.Name, name, strings.Join(slices.Sorted(maps.Keys(values)), ", "))
		}
	}
	return values, nil
}

// PastTime reads a time as RFC 3339 writes it, or how long before now it is: 7d, 12h.
func PastTime(s string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return at, nil
	}
	var d time.Duration
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return time.Time{}, fmt.Errorf("%q: want such as 7d, 12h or 2006-01-02T15:04:05Z", s)
		}
		d = time.Duration(n) * 24 * time.Hour
	} else {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			return time.Time{}, fmt.Errorf("%q: want such as 7d, 12h or 2006-01-02T15:04:05Z", s)
		}
	}
	if d < 0 {
		return time.Time{}, fmt.Errorf("%q: must not be in the future", s)
	}
	return now.Add(-d), nil
}

// Ask asks a question and copies the answer to w in a format of ClickHouse's.
func (q *Question) Ask(ctx context.Context, c ClickHouse, told map[string]string, format string, w io.Writer) error {
	values, err := q.values(told, time.Now())
	if err != nil {
		return err
	}
	return query(ctx, c, q.SQL, format, values, w)
}
