package schema

import (
	"context"
	_ "embed" // the questions
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/recording"
)

var (
	//go:embed queries/sessions.sql
	sessionsSQL string
	//go:embed queries/frames.sql
	framesSQL string
)

// Session is one row of tipstaff.sessions, with how the session ended.
type Session struct {
	Cluster string `json:"cluster" ch:"cluster"`
	// Session is its id: the audit id of the request that began it.
	Session string    `json:"session" ch:"session"`
	Started time.Time `json:"started" ch:"started"`

	User         string `json:"user" ch:"user"`
	Issuer       string `json:"issuer" ch:"issuer"`
	Run          string `json:"run" ch:"run"`
	RunKey       string `json:"runKey" ch:"run_key"`
	Model        string `json:"model,omitempty" ch:"model"`
	Owner        string `json:"owner,omitempty" ch:"owner"`
	Task         string `json:"task,omitempty" ch:"task"`
	Profile      string `json:"profile,omitempty" ch:"profile"`
	CredentialID string `json:"credentialID,omitempty" ch:"credential_id"`
	SourceIP     string `json:"sourceIP,omitempty" ch:"source_ip"`
	UserAgent    string `json:"userAgent,omitempty" ch:"user_agent"`

	// Verb is exec or attach.
	Verb      string   `json:"verb" ch:"verb"`
	Namespace string   `json:"namespace" ch:"namespace"`
	Pod       string   `json:"pod" ch:"pod"`
	Container string   `json:"container,omitempty" ch:"container"`
	Command   []string `json:"command,omitempty" ch:"command"`
	TTY       bool     `json:"tty,omitempty" ch:"tty"`

	// Input and Output are bytes, Last is microseconds from the start to the
	// last of them that passed.
	Input  uint64 `json:"input" ch:"input"`
	Output uint64 `json:"output" ch:"output"`
	Last   int64  `json:"lastMicroseconds" ch:"last"`
	// Status is the metav1.Status that the command ended with, if it did.
	Status string `json:"status,omitempty" ch:"status"`
	// Ended is false for a session that goes on, or whose proxy died.
	Ended bool `json:"ended" ch:"ended"`
	// Reason is why it ended, empty where it ended by itself.
	Reason string `json:"reason,omitempty" ch:"reason"`
}

// SessionFrame is one row of tipstaff.session_frames.
type SessionFrame struct {
	Cluster string    `ch:"cluster"`
	Session string    `ch:"session"`
	Started time.Time `ch:"started"`
	Seq     uint32    `ch:"seq"`
	// After is microseconds since the start.
	After  int64  `ch:"after"`
	Stream string `ch:"stream"`
	Data   string `ch:"data"`
}

// SessionOf gives a session's row.
func SessionOf(cluster string, s *recording.Session) Session {
	return Session{
		Cluster: cluster, Session: s.ID, Started: s.Started.UTC(),
		User: s.Agent.User, Issuer: s.Agent.Issuer, Run: s.Agent.Run, RunKey: string(s.Agent.Key()), Model: s.Agent.Model,
		Owner: s.Agent.Owner, Task: s.Agent.Task, Profile: s.Agent.Profile, CredentialID: s.Agent.CredentialID,
		SourceIP: s.SourceIP, UserAgent: s.UserAgent,
		Verb: s.Verb, Namespace: s.Namespace, Pod: s.Pod, Container: s.Container, Command: s.Command, TTY: s.TTY,
	}
}

// Recording gives what the row says of the session's beginning.
func (s *Session) Recording() *recording.Session {
	return &recording.Session{
		ID: s.Session, Started: s.Started, Verb: s.Verb, Namespace: s.Namespace, Pod: s.Pod, Container: s.Container,
		Command: s.Command, TTY: s.TTY, SourceIP: s.SourceIP, UserAgent: s.UserAgent,
		Agent: v1alpha1.Agent{
			User: s.User, Issuer: s.Issuer, Run: s.Run, Model: s.Model, Owner: s.Owner, Task: s.Task,
			Profile: s.Profile, CredentialID: s.CredentialID,
		},
	}
}

// FramesOf gives the rows of a piece.
func FramesOf(cluster string, p *recording.Piece) []SessionFrame {
	rows := make([]SessionFrame, len(p.Frames))
	for i, f := range p.Frames {
		rows[i] = SessionFrame{
			Cluster: cluster, Session: p.Session.ID, Started: p.Session.Started.UTC(),
			Seq: f.Seq, After: f.At.Microseconds(), Stream: string(f.Stream), Data: string(f.Data),
		}
	}
	return rows
}

const (
	insertSessionsSQL = `INSERT INTO tipstaff.sessions (
	cluster, session, started, user, issuer, run, run_key, model, owner, task, profile, credential_id, source_ip, user_agent,
	verb, namespace, pod, container, command, tty)`
	insertFramesSQL = `INSERT INTO tipstaff.session_frames (cluster, session, started, seq, after, stream, data)`
)

// InsertSessions writes sessions and frames as Insert writes events.
func InsertSessions(ctx context.Context, conn driver.Conn, sessions []Session, frames []SessionFrame) error {
	if err := insert(ctx, conn, insertSessionsSQL, "sessions", sessions); err != nil {
		return err
	}
	return insert(ctx, conn, insertFramesSQL, "frames of sessions", frames)
}

// Sessions gives the recorded sessions of run, in the order they began. Empty
// run is every run; with an id only the session that has it.
func Sessions(ctx context.Context, conn driver.Conn, run, issuer, id string) ([]Session, error) {
	var sessions []Session
	err := conn.Select(ctx, &sessions, sessionsSQL, clickhouse.Named("run", run), clickhouse.Named("issuer", issuer), clickhouse.Named("session", id))
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return sessions, nil
}

// Frames gives what passed in a session, in order.
func Frames(ctx context.Context, conn driver.Conn, cluster, session string) ([]recording.Frame, error) {
	rows, err := conn.Query(ctx, framesSQL, clickhouse.Named("cluster", cluster), clickhouse.Named("session", session))
	if err != nil {
		return nil, fmt.Errorf("read the session: %w", err)
	}
	defer func() { _ = rows.Close() }() // only read from
	var frames []recording.Frame
	for rows.Next() {
		var f SessionFrame
		if err := rows.ScanStruct(&f); err != nil {
			return nil, fmt.Errorf("read the session: %w", err)
		}
		frames = append(frames, recording.Frame{Seq: f.Seq, At: time.Duration(f.After) * time.Microsecond, Stream: recording.Stream(f.Stream), Data: []byte(f.Data)})
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the session: %w", err)
	}
	return frames, nil
}

// WriteSessions writes a table of sessions.
func WriteSessions(w io.Writer, sessions []Session) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SESSION\tSTARTED\tLASTED\tRUN\tVERB\tPOD\tENDED\tIN\tOUT\tCOMMAND")
	for i := range sessions {
		s := &sessions[i]
		pod := s.Namespace + "/" + s.Pod
		if s.Container != "" {
			pod += ":" + s.Container
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", clean(s.Session), s.Started.UTC().Format(dayTime),
			(time.Duration(s.Last) * time.Microsecond).Round(time.Millisecond), clean(s.Run), clean(s.Verb), clean(pod), clean(s.ending()),
			s.Input, s.Output, clean(strings.Join(s.Command, " ")))
	}
	return tw.Flush()
}

// ending says in a word or two how the session ended.
func (s *Session) ending() string {
	switch code, told := recording.ExitCode([]byte(s.Status)); {
	case told:
		return fmt.Sprintf("exit %d", code)
	case s.Reason != "":
		return s.Reason
	case s.Ended:
		return "yes"
	default:
		return "no"
	}
}
