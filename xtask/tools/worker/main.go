// A real Temporal worker for the tests of Processes, configured as the plugin `process` configures workers.
//
// Workflows:
//
//	Report   returns the definition that the worker was started with
//	Hold     runs until it is told "go", or is cancelled: then it tidies up and ends as cancelled
//	Stubborn runs until it is told "go", whoever cancels it
package main

import (
	"fmt"
	"log"
	"log/slog"
	"os"

	"go.temporal.io/sdk/client"
	tlog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

func main() {
	queue := must("TASK_QUEUE")
	definition, err := os.ReadFile(must("PROCESS_DEFINITION_FILE"))
	if err != nil {
		log.Fatalf("no definition: %v", err)
	}
	temporal, err := client.Dial(client.Options{
		HostPort:  must("TEMPORAL_ADDRESS"),
		Namespace: must("TEMPORAL_NAMESPACE"),
		// stdout is for the line that says that it polls
		Logger: tlog.NewStructuredLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))),
	})
	if err != nil {
		log.Fatalf("no Temporal: %v", err)
	}
	defer temporal.Close()
	w := worker.New(temporal, queue, worker.Options{})
	report := func(workflow.Context) (string, error) { return string(definition), nil }
	w.RegisterWorkflowWithOptions(report, workflow.RegisterOptions{Name: "Report"})
	w.RegisterWorkflowWithOptions(hold, workflow.RegisterOptions{Name: "Hold"})
	w.RegisterWorkflowWithOptions(stubborn, workflow.RegisterOptions{Name: "Stubborn"})
	if err := w.Start(); err != nil {
		log.Fatalf("cannot poll: %v", err)
	}
	fmt.Printf("polls %s for %s\n", queue, must("PROCESS_DEFINITION_ID"))
	<-worker.InterruptCh()
	w.Stop()
}

func must(name string) string {
	value := os.Getenv(name)
	if value == "" {
		log.Fatalf("%s is not set", name)
	}
	return value
}

func hold(ctx workflow.Context) error {
	selector := workflow.NewSelector(ctx)
	selector.AddReceive(workflow.GetSignalChannel(ctx, "go"), func(c workflow.ReceiveChannel, _ bool) { c.Receive(ctx, nil) })
	selector.AddReceive(ctx.Done(), func(workflow.ReceiveChannel, bool) {})
	selector.Select(ctx)
	return ctx.Err()
}

func stubborn(ctx workflow.Context) error {
	deaf, _ := workflow.NewDisconnectedContext(ctx)
	workflow.GetSignalChannel(deaf, "go").Receive(deaf, nil)
	return nil
}
