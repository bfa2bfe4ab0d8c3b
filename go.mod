module github.com/bastion-on-demand/bastion

go 1.26
