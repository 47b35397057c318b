package proxy

import (
	"context"
	"time"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Session is one interactive session of an agent: an exec or attach.
type Session struct {
	ID         string // unique, 32 lower-case hex digits
	Agent      v1alpha1.Agent
	Verb       string // exec or attach
	Namespace  string
	Pod        string
	Container  string   // empty where the client named none
	Command    []string // as the client asked, masked
	TTY        bool
	Start      time.Time
	Width      int // of the terminal, where known at the start; else 0
	Height     int
	RemoteAddr string
}

// Stream is one direction of a session.
type Stream byte

// The streams of a session.
const (
	Stdin  Stream = 'i'
	Stdout Stream = 'o'
	Stderr Stream = 'e'
	Resize Stream = 'r' // data is COLUMNSxROWS, as in asciicast v2
)

// Chunk is what passed on one stream at one moment, masked.
type Chunk struct {
	Stream Stream
	At     time.Duration // since Session.Start
	Data   []byte
}

// Recorder keeps the recordings of sessions.
type Recorder interface {
	// Begin opens the recording of s. An error refuses the session.
	Begin(ctx context.Context, s Session) (Recording, error)
}

// Recording is one session's recording. It is used by one goroutine at a time.
type Recording interface {
	// Write keeps c. It may gather chunks for a short time before they are
	// stored; an error ends the session. c.Data is not kept after it returns.
	Write(c Chunk) error
	// Close stores what was gathered and how the session ended (nil: by itself).
	Close(cause error) error
}
