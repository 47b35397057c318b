package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tipstaff-dev/tipstaff/approvals"
)

// isTerminal reports whether stream is a terminal, and how wide it is.
func isTerminal(stream any) (width int, ok bool) {
	f, isFile := stream.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	return width, true
}

func (o *options) colorFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.color, "color", "auto", "auto, always or never; auto paints on a terminal unless $NO_COLOR is set")
}

// screen is what w is written for.
func (o *options) screen(w io.Writer) (approvals.Screen, error) {
	width, terminal := o.isTerminal(w)
	s := approvals.Screen{Width: width}
	switch o.color {
	case "always":
		s.Color = true
	case "never":
	case "auto", "":
		s.Color = terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	default:
		return s, fmt.Errorf("--color %s: auto, always or never", o.color)
	}
	return s, nil
}

// confirm asks a person and waits for a line. Only y or yes is a yes. The reader
// of a terminal can't be interrupted: where ctx ends first, it is left behind for
// the end of the process.
func confirm(ctx context.Context, in io.Reader, out io.Writer, question string) (bool, error) {
	if _, err := fmt.Fprint(out, question+" [y/N] "); err != nil {
		return false, err
	}
	type answer struct {
		line string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(in).ReadString('\n')
		answered <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		return false, errors.New("interrupted: nothing is decided")
	case a := <-answered:
		if a.err != nil && !errors.Is(a.err, io.EOF) {
			return false, fmt.Errorf("read the answer: %w", a.err)
		}
		word := strings.ToLower(strings.TrimSpace(a.line))
		return word == "y" || word == "yes", nil
	}
}
