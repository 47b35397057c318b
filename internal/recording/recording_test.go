package recording

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

func sample() *Piece {
	return &Piece{
		Session: Session{
			ID: "0b1c", Started: time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC), Verb: "exec", Namespace: "a", Pod: "p",
			Command: []string{"sh", "-c", "echo it's"}, Agent: v1alpha1.Agent{User: "agent:demo:bot", Issuer: "demo", Run: "r1"},
		},
		Frames: []Frame{
			{Seq: 1, At: 10 * time.Millisecond, Stream: Size, Data: []byte("120x40")},
			{Seq: 2, At: 20 * time.Millisecond, Stream: Input, Data: []byte("ls\n")},
			{Seq: 3, At: 30 * time.Millisecond, Stream: Output, Data: []byte("caf\xc3")},
			{Seq: 4, At: 40 * time.Millisecond, Stream: Errors, Data: []byte("oh\n")},
			{Seq: 5, At: 50 * time.Millisecond, Stream: Output, Data: []byte("\xa9 \xff\n<&>")},
			{Seq: 6, At: 60 * time.Millisecond, Stream: Status, Data: []byte(`{"status":"Success"}`)},
			{Seq: 7, At: 70 * time.Millisecond, Stream: End},
		},
	}
}

func TestReadTakesWhatWasWritten(t *testing.T) {
	t.Parallel()
	body, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	p, err := Read(body)
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(p)
	if err != nil || !bytes.Equal(body, again) {
		t.Errorf("%s\nbecame %s, %v", body, again, err)
	}
}

func TestEncodeGivesOnlyWhatReadTakes(t *testing.T) {
	t.Parallel()
	body, err := sample().Encode()
	if want, _ := json.Marshal(sample()); err != nil || !bytes.Equal(body, want) {
		t.Errorf("got %s, %v", body, err)
	}
	p := sample()
	p.Session.Pod = strings.Repeat("\xff", 2<<10) // each byte is three when it is read again
	if _, err := p.Encode(); err == nil || err.Error() != "a text of the session is too long" {
		t.Errorf("got %v", err)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Piece){
		"has no id":               func(p *Piece) { p.Session.ID = "" },
		"no id that can be kept":  func(p *Piece) { p.Session.ID = "a'; DROP TABLE x" },
		"start is missing":        func(p *Piece) { p.Session.Started = time.Time{} },
		"neither exec nor attach": func(p *Piece) { p.Session.Verb = "get" },
		"no agent's run's":        func(p *Piece) { p.Session.Agent.Run = "" },
		"command is too long":     func(p *Piece) { p.Session.Command = []string{strings.Repeat("x", maxCommand+1)} },
		"text of the session":     func(p *Piece) { p.Session.UserAgent = strings.Repeat("x", maxTextBytes+1) },
		"don't follow each other": func(p *Piece) { p.Frames[3].Seq = 9 },
		"before the session":      func(p *Piece) { p.Frames[0].At = -1 },
		"stream is unknown":       func(p *Piece) { p.Frames[0].Stream = "other" },
		"frame is too large":      func(p *Piece) { p.Frames[0].Data = make([]byte, MaxFrameBytes+1) },
		"too many frames": func(p *Piece) {
			p.Frames = make([]Frame, maxFrames+1)
		},
	} {
		p := sample()
		change(p)
		body, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Read(body); err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(want, "has ")) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	for want, body := range map[string]string{
		"no JSON": `{"session":`, "something follows": `{} {}`, "is too large": strings.Repeat(" ", MaxPieceBytes+1),
	} {
		if _, err := Read([]byte(body)); err == nil || !strings.Contains(err.Error(), want) {
			if want == "something follows" && err != nil {
				continue // or what stands before it is refused
			}
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// The format is asciicast v2's: a header, then [seconds, code, text].
func TestWriteCast(t *testing.T) {
	t.Parallel()
	p := sample()
	var out bytes.Buffer
	if err := WriteCast(&out, &p.Session, p.Frames); err != nil {
		t.Fatal(err)
	}
	want := `{"version":2,"width":120,"height":40,"timestamp":1795500000,"command":"sh -c 'echo it'\\''s'","title":"exec a/p, run r1"}
[0.01,"r","120x40"]
[0.02,"i","ls\n"]
[0.03,"o","caf"]
[0.04,"o","oh\r\n"]
[0.05,"o","é �\r\n<&>"]
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
	out.Reset()
	p.Session.TTY = true
	if err := WriteCast(&out, &p.Session, p.Frames[1:]); err != nil || !strings.Contains(out.String(), `"width":80,"height":24`) || strings.Contains(out.String(), `\r`) {
		t.Errorf("of a terminal whose size nobody told: %s, %v", &out, err)
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]int{
		`{"status":"Success"}`: 0,
		`{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}`: 7,
		`{"status":"Failure","message":"no such container"}`:                                                         -1,
		`{`: -1,
	} {
		code, told := ExitCode([]byte(status))
		if !told {
			code = -1
		}
		if code != want {
			t.Errorf("%s: got %d, want %d", status, code, want)
		}
	}
}

// FuzzRead sends anything: no piece that is taken breaks what shows it.
func FuzzRead(f *testing.F) {
	body, err := json.Marshal(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"session":{"id":"a","started":"2026-01-01T00:00:00Z","verb":"attach","agent":{"user":"u","run":"r"}},"frames":[{"seq":1,"stream":"resize","data":"eA=="}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := Read(body)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := WriteCast(&out, &p.Session, p.Frames); err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(out.Bytes()) {
			if !json.Valid(line) {
				t.Fatalf("no JSON: %q", line)
			}
		}
		ExitCode(body)
	})
}
