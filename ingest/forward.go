package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// forwarders is how many messages are on their way at once: with a server that
// syncs each, one at a time would be as slow as its disk and the way to it.
const forwarders = 8

// forwarder moves what a spool holds to the remote JetStream.
type forwarder struct {
	from, to *stream
	log      *slog.Logger
	metrics  *metrics
}

// run forwards until ctx ends. A message leaves the spool once the remote stream
// has taken it. One that was taken and not acknowledged is sent again: its id is
// known there for a while, and its rows replace themselves after.
func (f *forwarder) run(ctx context.Context) error {
	var g errgroup.Group
	for _, name := range []string{streamName, quarantineName} {
		var c jetstream.Consumer
		again(ctx, func(ctx context.Context) (done bool) {
			var err error
			if c, err = f.consumer(ctx, name); err != nil {
				f.log.WarnContext(ctx, "the spool can't be read", "error", err)
			}
			return err == nil
		})
		for range forwarders {
			g.Go(func() error {
				again(ctx, func(ctx context.Context) bool {
					for ctx.Err() == nil {
						if err := f.next(ctx, c); err != nil {
							f.log.WarnContext(ctx, "received batches wait in the spool", "error", err)
							break
						}
					}
					return false
				})
				return nil
			})
		}
	}
	return g.Wait()
}

// consumer of what leaves the stream when it is acknowledged is made anew, so that
// what was handed out before the last stop comes at once: nobody else reads here.
func (f *forwarder) consumer(ctx context.Context, stream string) (jetstream.Consumer, error) {
	if stream == quarantineName {
		return f.from.consumer(ctx, stream, forwarderName)
	}
	if err := f.from.js.DeleteConsumer(ctx, stream, forwarderName); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, fmt.Errorf("remove the consumer %s: %w", forwarderName, err)
	}
	return f.from.consumer(ctx, stream, forwarderName)
}

// next forwards one message, if one comes in a while.
func (f *forwarder) next(ctx context.Context, c jetstream.Consumer) error {
	wait, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	msg, err := c.Next(jetstream.FetchContext(wait))
	switch {
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, jetstream.ErrNoMessages), wait.Err() != nil && err != nil:
		return nil
	case err != nil:
		return fmt.Errorf("fetch from the spool: %w", err)
	}
	if err := f.forward(ctx, msg); err != nil {
		f.metrics.forwardFailures.Inc()
		// The later the oftener it came: one that is never taken holds up no other.
		if err := msg.NakWithDelay(min(time.Second<<min(delivered(msg), 5), maxBackoff)); err != nil {
			f.log.DebugContext(ctx, "message not given back, it comes again by itself", "error", err)
		}
		return err
	}
	return nil
}

// forward lets a message that is under way finish when ctx ends.
func (f *forwarder) forward(ctx context.Context, msg jetstream.Msg) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	on := &nats.Msg{Subject: msg.Subject(), Header: msg.Headers(), Data: msg.Data()}
	if err := f.to.publish(ctx, on, msg.Headers().Get(nats.MsgIdHdr)); err != nil {
		return err
	}
	f.metrics.forwarded.Inc()
	if err := msg.DoubleAck(ctx); err != nil {
		f.log.WarnContext(ctx, "forwarded message not acknowledged, it will be sent again", "error", err)
		f.from.fail()
	}
	return nil
}
