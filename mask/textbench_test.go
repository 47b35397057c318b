package mask

import (
	"io"
	"strings"
	"testing"
)

// BenchmarkText masks logs: of lines as programs write them, and in one line.
func BenchmarkText(b *testing.B) {
	for name, text := range map[string]string{
		"lines":    strings.Repeat("2026-11-30T12:00:00.123456Z INFO http: request served method=GET path=/api/v1/items/1234 status=200 duration=3.2ms user=ann\n", 8000),
		"json":     strings.Repeat(`{"ts":"2026-11-30T12:00:00.123456Z","level":"info","msg":"request served","method":"GET","path":"/api/v1/items/1234","status":200}`+"\n", 8000),
		"one line": strings.Repeat("ordinary words ", 64<<10),
	} {
		b.Run(name, func(b *testing.B) {
			s := scoped(b)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				w := s.Text(io.Discard)
				for at := 0; at < len(text); at += 32 << 10 {
					if _, err := io.WriteString(w, text[at:min(len(text), at+32<<10)]); err != nil {
						b.Fatal(err)
					}
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
