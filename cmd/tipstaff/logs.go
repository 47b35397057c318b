package main

import (
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

// setLibraryLogs sends what client-go and controller-runtime log to our log.
// Both keep one logger a process.
func setLibraryLogs(log *slog.Logger) {
	l := logr.FromSlogHandler(log.Handler())
	klog.SetLogger(l)
	ctrllog.SetLogger(l)
}
