// Package recording holds what is kept of an interactive session in a pod: who
// began it, and what went in either direction, masked and with its time. The
// proxy makes it, ingest stores it, the command line plays it.
package recording

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Stream says what a frame carries.
type Stream string

// The streams of a session.
const (
	// Input is what the client sent to the command.
	Input Stream = "stdin"
	// Output and Errors are what the client got from it.
	Output Stream = "stdout"
	Errors Stream = "stderr"
	// Size is the terminal's new size, as COLUMNSxROWS.
	Size Stream = "resize"
	// Status is the metav1.Status that the command ended with.
	Status Stream = "status"
	// End is the last frame: why the session ended, empty where it ended by itself.
	End Stream = "end"
)

var streams = map[Stream]bool{Input: true, Output: true, Errors: true, Size: true, Status: true, End: true}

// Session is what is known of a session when it begins.
type Session struct {
	// ID is unique, and the audit id of the request that began it. Where the
	// request was held and sent again, the later ones add "-2", "-3", …
	ID      string    `json:"id"`
	Started time.Time `json:"started"`

	Agent v1alpha1.Agent `json:"agent"`
	// Verb is exec or attach.
	Verb      string `json:"verb"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Container string `json:"container,omitempty"`
	// Command is masked as the arguments of a container are.
	Command   []string `json:"command,omitempty"`
	TTY       bool     `json:"tty,omitempty"`
	SourceIP  string   `json:"sourceIP,omitempty"`
	UserAgent string   `json:"userAgent,omitempty"`
}

// Frame is a piece of one stream.
type Frame struct {
	// Seq counts a session's frames from 1, without a gap.
	Seq uint32 `json:"seq"`
	// At is how long after the session's start it passed.
	At time.Duration `json:"at"`
	// Stream says what Data is.
	Stream Stream `json:"stream"`
	// Data is masked. It may be any bytes.
	Data []byte `json:"data,omitempty"`
}

// Piece is what is stored at once: a session's beginning, or frames of it.
type Piece struct {
	Session Session `json:"session"`
	Frames  []Frame `json:"frames,omitempty"`
}

// Bounds of one piece.
const (
	MaxPieceBytes = 8 << 20
	MaxFrameBytes = 1 << 20
	maxFrames     = 1024
	maxTextBytes  = 4 << 10
	maxArguments  = 1024
	maxCommand    = 256 << 10
)

// ErrRefused is what a store says of a record, a piece or a list of audit events,
// that it would not take sent again either. Whoever sends several at once may
// send them one by one.
var ErrRefused = errors.New("the record is refused")

// Encode gives p as Read reads it. An error means that Read would refuse it, and
// its text quotes nothing of p.
func (p *Piece) Encode() ([]byte, error) {
	body, err := json.Marshal(p)
	if err != nil {
		return nil, errors.New("the piece can't be written")
	}
	// Not p itself: text that is no UTF-8 has grown.
	if _, err := Read(body); err != nil {
		return nil, err
	}
	return body, nil
}

// Read reads a piece that somebody sent. An error's text quotes nothing of it.
func Read(body []byte) (*Piece, error) {
	if len(body) > MaxPieceBytes {
		return nil, errors.New("the piece is too large")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	p := &Piece{}
	if err := d.Decode(p); err != nil {
		return nil, errors.New("the piece is no JSON of a recording")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the piece")
	}
	return p, p.check()
}

// The store's times end here (ClickHouse's DateTime64 with microseconds).
var (
	earliest = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)
)

func (p *Piece) check() error {
	s := &p.Session
	if len(validation.IsDNS1123Subdomain(s.ID)) > 0 || len(s.ID) > 64 {
		return errors.New("the session has no id that can be kept")
	}
	if s.Started.Before(earliest) || s.Started.After(latest) {
		return errors.New("the session's start is missing or out of range")
	}
	if s.Verb != "exec" && s.Verb != "attach" {
		return errors.New("the session is neither exec nor attach")
	}
	if s.Agent.Run == "" || s.Agent.User == "" {
		return errors.New("the session is no agent's run's")
	}
	size := 0
	for _, arg := range s.Command {
		size += len(arg)
	}
	if len(s.Command) > maxArguments || size > maxCommand {
		return errors.New("the command is too long")
	}
	for _, v := range []string{s.Namespace, s.Pod, s.Container, s.SourceIP, s.UserAgent, s.Agent.User, s.Agent.Run, s.Agent.Task} {
		if len(v) > maxTextBytes {
			return errors.New("a text of the session is too long")
		}
	}
	if len(p.Frames) > maxFrames {
		return errors.New("there are too many frames")
	}
	for i, f := range p.Frames {
		switch {
		case f.Seq == 0 || i > 0 && f.Seq != p.Frames[i-1].Seq+1:
			return errors.New("the frames don't follow each other")
		case f.At < 0:
			return errors.New("a frame comes before the session")
		case !streams[f.Stream]:
			return errors.New("a frame's stream is unknown")
		case len(f.Data) > MaxFrameBytes:
			return errors.New("a frame is too large")
		}
	}
	return nil
}

// The size of a terminal whose size nobody told.
const (
	defaultColumns = 80
	defaultRows    = 24
)

// WriteCast writes a session as an asciicast v2 file, which asciinema and its
// players show (docs.asciinema.org/manual/asciicast/v2). What isn't UTF-8 in it
// is replaced; what the command wrote to stderr stands among its output, as a
// terminal shows it.
func WriteCast(w io.Writer, s *Session, frames []Frame) error {
	columns, rows := defaultColumns, defaultRows
	for _, f := range frames {
		if f.Stream == Size {
			_, _ = fmt.Sscanf(string(f.Data), "%dx%d", &columns, &rows) // else the default
			break
		}
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	title := fmt.Sprintf("%s %s/%s, run %s", s.Verb, s.Namespace, s.Pod, s.Agent.Run)
	if err := enc.Encode(struct {
		Version   int    `json:"version"`
		Width     int    `json:"width"`
		Height    int    `json:"height"`
		Timestamp int64  `json:"timestamp"`
		Command   string `json:"command,omitempty"`
		Title     string `json:"title"`
	}{2, columns, rows, s.Started.Unix(), joined(s.Command), title}); err != nil {
		return fmt.Errorf("write the recording: %w", err)
	}
	rest := map[Stream][]byte{}
	for _, f := range frames {
		code := ""
		switch f.Stream {
		case Input:
			code = "i"
		case Output, Errors:
			code = "o"
		case Size:
			code = "r"
		case Status, End:
			continue
		}
		text, left := whole(append(rest[f.Stream], f.Data...))
		rest[f.Stream] = left
		if text == "" {
			continue
		}
		if code == "o" && !s.TTY {
			text = newlines(text)
		}
		if err := enc.Encode([]any{f.At.Seconds(), code, text}); err != nil {
			return fmt.Errorf("write the recording: %w", err)
		}
	}
	return nil
}

// whole gives b's text and the beginning of a character that isn't whole yet.
func whole(b []byte) (text string, left []byte) {
	end := len(b)
	for i := 1; i <= min(utf8.UTFMax-1, len(b)); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-i:]) {
				end = len(b) - i
			}
			break
		}
	}
	return string(bytes.ToValidUTF8(b[:end], []byte("\ufffd"))), bytes.Clone(b[end:])
}

// newlines makes of a text that no terminal's driver saw what one would show.
func newlines(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

// joined gives a command as a line.
func joined(command []string) string {
	args := make([]string, len(command))
	for i, arg := range command {
		args[i] = quoted(arg)
	}
	return strings.Join(args, " ")
}

// plain needs no quotes in a shell.
var plain = regexp.MustCompile(`^[-\w./=:,+@%]+$`)

func quoted(arg string) string {
	if plain.MatchString(arg) {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

// ExitCode reads a Status frame's data: what the command's exit code was. False
// means that it doesn't tell.
func ExitCode(status []byte) (int, bool) {
	var s struct {
		Status  string `json:"status"`
		Details struct {
			Causes []struct {
				Reason  string `json:"reason"`
				Message string `json:"message"`
			} `json:"causes"`
		} `json:"details"`
	}
	if json.Unmarshal(status, &s) != nil {
		return 0, false
	}
	if s.Status == "Success" {
		return 0, true
	}
	for _, c := range s.Details.Causes {
		if c.Reason == "ExitCode" {
			var code int
			if _, err := fmt.Sscanf(c.Message, "%d", &code); err == nil {
				return code, true
			}
		}
	}
	return 0, false
}
