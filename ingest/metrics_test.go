package ingest

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// An alert on an increase must see the counter before it counts.
func TestWhatIsAlertedOnIsThereAtZero(t *testing.T) {
	t.Parallel()
	in, err := New(Config{Clusters: []string{"demo"}}, nil, masker(t), away{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(in.Collectors()...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := []string{f.GetName()}
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got = append(got, fmt.Sprintf("%s %v", strings.Join(labels, " "), m.GetCounter().GetValue()))
		}
	}
	want := []string{
		"tipstaff_ingest_batches_total demo malformed 0",
		"tipstaff_ingest_batches_total demo stored 0",
		"tipstaff_ingest_batches_total demo too_large 0",
		"tipstaff_ingest_batches_total demo unavailable 0",
		"tipstaff_ingest_chain_failures_total demo 0",
		"tipstaff_ingest_delay_seconds demo 0",
		"tipstaff_ingest_events_total demo quarantined 0",
		"tipstaff_ingest_events_total demo stored 0",
		"tipstaff_ingest_forward_failures_total 0",
		"tipstaff_ingest_forwarded_total 0",
		"tipstaff_ingest_insert_duration_seconds 0",
		"tipstaff_ingest_insert_failures_total 0",
		"tipstaff_ingest_insert_rows 0",
		"tipstaff_ingest_outcomes_total dropped 0",
		"tipstaff_ingest_outcomes_total passed 0",
		"tipstaff_ingest_rows_total 0",
		"tipstaff_ingest_session_pieces_total demo malformed 0",
		"tipstaff_ingest_session_pieces_total demo stored 0",
		"tipstaff_ingest_session_pieces_total demo unavailable 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("there are %q", got)
	}
}
